// Package api carries the image service over HTTP on a unix socket, for "skiff images". The socket belongs to root
// (mode 0600); there is no other access control.
//
//	GET    /v1/images            → list of images                             JSON array of imageservice.Image
//	GET    /v1/images?ref=R      → the one image that R means                 JSON imageservice.Image
//	DELETE /v1/images?ref=R      → removes it; succeeds when it is gone
//	POST   /v1/pull              ← JSON imageservice.PullRequest
//	                             → one JSON message a line: any number of {"progress":…}, then {"image":…} or {"error":…}
//	PUT    /v1/archive           ← tar archive, compressed or not             → JSON array of the images in it
//	GET    /v1/explain?ref=R     → how R would be pulled; &probe=true asks   JSON imageservice.Explanation
//	GET    /v1/archive?ref=R&…   → tar archive of the images; cut short where it fails
//
// An error is {"kind":…, "message":…}. The kind names the sentinel error of package imageservice, so that errors.Is
// works on both sides.
package api

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/skiff-node/skiff/imageservice"
)

// Failure is an error on the wire.
type Failure struct {
	Kind    string `json:"kind,omitempty"`
	Message string `json:"message"`
}

// message is one line of a pull's reply.
type message struct {
	Progress *imageservice.Progress `json:"progress,omitempty"`
	Image    *imageservice.Image    `json:"image,omitempty"`
	Error    *Failure               `json:"error,omitempty"`
}

// kind pairs a sentinel error with its name and status.
type kind struct {
	name   string
	err    error
	status int
}

func kinds() []kind {
	return []kind{
		{"not-found", imageservice.ErrNotFound, http.StatusNotFound},
		{"invalid-reference", imageservice.ErrInvalidReference, http.StatusBadRequest},
		{"unauthorized", imageservice.ErrUnauthorized, http.StatusForbidden},
		{"wrong-platform", imageservice.ErrWrongPlatform, http.StatusUnprocessableEntity},
		{"corrupt", imageservice.ErrCorrupt, http.StatusUnprocessableEntity},
		{"no-space", imageservice.ErrNoSpace, http.StatusInsufficientStorage},
		{"pull-stalled", imageservice.ErrPullStalled, http.StatusGatewayTimeout},
		{"signature-invalid", imageservice.ErrSignatureInvalid, http.StatusUnprocessableEntity},
		{"unsupported", imageservice.ErrUnsupported, http.StatusUnprocessableEntity},
		{"artifact", imageservice.ErrArtifact, http.StatusConflict},
		{"unavailable", imageservice.ErrUnavailable, http.StatusBadGateway},
	}
}

func failure(err error) (*Failure, int) {
	for _, k := range kinds() {
		if errors.Is(err, k.err) {
			return &Failure{Kind: k.name, Message: err.Error()}, k.status
		}
	}
	return &Failure{Message: err.Error()}, http.StatusInternalServerError
}

// remoteError is a Failure on the client's side.
type remoteError struct {
	message string
	kind    error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.kind }

func (f *Failure) asError() error {
	for _, k := range kinds() {
		if k.name == f.Kind {
			return &remoteError{f.Message, k.err}
		}
	}
	return errors.New(f.Message)
}

// Listen listens on a unix socket that only its owner can reach. It takes the place of a socket that a killed process
// left. The caller removes the file after closing.
func Listen(path string) (net.Listener, error) {
	temp := fmt.Sprintf("%s.%d", path, os.Getpid())
	if err := os.RemoveAll(temp); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: temp, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(temp, 0o600)
	if err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: %w", path, err), l.Close(), os.RemoveAll(temp))
	}
	return l, nil
}
