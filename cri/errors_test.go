package cri

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/skiff-node/skiff/imageservice"
)

// TestImageErrors: the kubelet tells the reasons of a failed pull apart by what the text begins with.
func TestImageErrors(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code codes.Code
		word error
	}{
		{imageservice.ErrUnavailable, codes.Unavailable, crierrors.ErrRegistryUnavailable},
		{imageservice.ErrSignatureInvalid, codes.Unknown, crierrors.ErrSignatureValidationFailed},
		{imageservice.ErrUnauthorized, codes.PermissionDenied, nil},
		{imageservice.ErrNotFound, codes.NotFound, nil},
		{imageservice.ErrNoSpace, codes.ResourceExhausted, nil},
		{imageservice.ErrPullStalled, codes.DeadlineExceeded, nil},
		{imageservice.ErrUnsupported, codes.Unimplemented, nil},
		{imageservice.ErrArtifact, codes.FailedPrecondition, nil},
	} {
		got := status.Convert(toStatus(fmt.Errorf("pull x: %w: details", tc.err)))
		if got.Code() != tc.code || !strings.HasSuffix(got.Message(), "details") || tc.word != nil && !strings.HasPrefix(got.Message(), tc.word.Error()) {
			t.Errorf("%v: %v %q", tc.err, got.Code(), got.Message())
		}
	}
}
