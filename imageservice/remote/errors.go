package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"

	"github.com/skiff-node/skiff/imageservice"
)

// worthRetry reports whether the connection, not the registry, said no.
func worthRetry(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	var netErr net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &netErr) && netErr.Timeout()
}

// classify gives an error of the registry client its kind and says what to do about it.
func (s *Session) classify(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("registry %s: %w", s.host, cause)
	}
	if errors.Is(err, errConfig) || errors.Is(err, imageservice.ErrUnauthorized) {
		return err
	}
	var status remoteerrors.ErrUnexpectedStatus
	errors.As(err, &status)
	switch {
	case errors.Is(err, docker.ErrInvalidAuthorization), status.StatusCode == http.StatusUnauthorized, status.StatusCode == http.StatusForbidden:
		return fmt.Errorf("registry %s: %w (wrong or missing credentials, or no such repository): %w", s.host, imageservice.ErrUnauthorized, err)
	case errdefs.IsNotFound(err), status.StatusCode == http.StatusNotFound:
		return fmt.Errorf("registry %s: %w: %w", s.host, imageservice.ErrNotFound, err)
	}
	return fmt.Errorf("registry %s: %w%s: %w", s.host, imageservice.ErrUnavailable, s.remedy(err), err)
}

// remedy says what to configure, for the errors that configuration mends.
func (s *Session) remedy(err error) string {
	var untrusted x509.UnknownAuthorityError
	var invalid *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted), errors.As(err, &invalid):
		return fmt.Sprintf(" (its certificate is not trusted: name its CA in certs.d/%s/hosts.toml)", s.host)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf(" (it speaks plain HTTP: write server = \"http://%s\" into certs.d/%s/hosts.toml to allow that)", s.host, s.host)
	}
	return ""
}
