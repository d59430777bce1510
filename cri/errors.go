package cri

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// codeOf lists the code of each sentinel, and the word that CRI clients look for in the text.
var codeOf = []struct {
	err  error
	code codes.Code
	word error
}{
	{runtimeservice.ErrRecursiveReadOnly, codes.Unknown, crierrors.ErrRROUnsupported},
	{runtimeservice.ErrImageVolume, codes.Unknown, crierrors.ErrImageVolumeMountFailed},
	{runtimeservice.ErrNotFound, codes.NotFound, nil},
	{runtimeservice.ErrExists, codes.AlreadyExists, nil},
	{runtimeservice.ErrInvalid, codes.InvalidArgument, nil},
	{runtimeservice.ErrState, codes.FailedPrecondition, nil},
	{runtimeservice.ErrUnsupported, codes.Unimplemented, nil},
	{runtimeservice.ErrTimeout, codes.DeadlineExceeded, nil},
	{imageservice.ErrSignatureInvalid, codes.Unknown, crierrors.ErrSignatureValidationFailed},
	{imageservice.ErrUnavailable, codes.Unavailable, crierrors.ErrRegistryUnavailable},
	{imageservice.ErrNotFound, codes.NotFound, nil},
	{imageservice.ErrInvalidReference, codes.InvalidArgument, nil},
	{imageservice.ErrUnauthorized, codes.PermissionDenied, nil},
	{imageservice.ErrWrongPlatform, codes.FailedPrecondition, nil},
	{imageservice.ErrArtifact, codes.FailedPrecondition, nil},
	{imageservice.ErrUnsupported, codes.Unimplemented, nil},
	{imageservice.ErrCorrupt, codes.DataLoss, nil},
	{imageservice.ErrNoSpace, codes.ResourceExhausted, nil},
	{imageservice.ErrPullStalled, codes.DeadlineExceeded, nil},
	{context.DeadlineExceeded, codes.DeadlineExceeded, nil},
	{context.Canceled, codes.Canceled, nil},
}

// toStatus turns an error of the services into a gRPC status. One that has a status already keeps it.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := status.FromError(err); ok {
		return err
	}
	for _, row := range codeOf {
		if !errors.Is(err, row.err) {
			continue
		}
		if row.word != nil {
			return status.Errorf(row.code, "%v: %v", row.word, err)
		}
		return status.Error(row.code, err.Error())
	}
	return status.Error(codes.Unknown, err.Error())
}
