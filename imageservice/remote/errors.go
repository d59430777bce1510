package remote

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/remote/hosts"
)

// statusError is a reply that is not a success.
type statusError struct {
	code       int
	url        string // without its query, which may hold secrets
	detail     string // what the registry says
	retryAfter time.Duration
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("%s: %d %s", e.url, e.code, http.StatusText(e.code))
	if e.detail != "" {
		text += ": " + e.detail
	}
	if e.retryAfter > 0 {
		text += fmt.Sprintf(" (it asks to come back in %s)", e.retryAfter)
	}
	return text
}

func (e *statusError) Unwrap() error {
	if e.code == http.StatusNotFound {
		return imageservice.ErrNotFound
	}
	return nil
}

// readStatus takes in and closes a reply that is not a success.
func readStatus(resp *http.Response) error {
	defer resp.Body.Close()
	u := *resp.Request.URL
	u.RawQuery, u.User = "", nil
	e := &statusError{code: resp.StatusCode, url: u.String(), retryAfter: retryAfter(resp.Header.Get("Retry-After"), time.Now())}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, 4096)) // what cannot be read says nothing
	e.detail = detail(body)
	return e
}

// detail is the text of the errors in a reply (distribution specification, "Error Codes").
func detail(body []byte) string {
	var reply struct {
		Errors []struct{ Code, Message string } `json:"errors"`
	}
	if json.Unmarshal(body, &reply) != nil {
		return ""
	}
	var all []string
	for _, e := range reply.Errors {
		all = append(all, strings.TrimSpace(e.Code+" "+e.Message))
	}
	text := strings.Join(all, "; ")
	return text[:min(len(text), 300)]
}

// retryAfter reads the header of that name: seconds or a date (RFC 9110, 10.2.3).
func retryAfter(value string, now time.Time) time.Duration {
	if s, err := strconv.Atoi(strings.TrimSpace(value)); err == nil {
		return max(0, min(time.Duration(s), 1<<20)*time.Second)
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, at.Sub(now).Round(time.Second))
	}
	return 0
}

// retries decides whether a request is sent again.
type retries struct {
	left time.Duration // that may still be waited
	last bool          // no other host can be asked instead
	n    int
}

const (
	firstWait  = 250 * time.Millisecond
	maxRetries = 2 // of what may be a passing fault
	maxWaits   = 8 // of a host that says it has too much to do
)

// next says how long to wait before sending the request again, if at all. With another host to ask it is not.
func (r *retries) next(ctx context.Context, err error) (time.Duration, bool) {
	if !r.last || ctx.Err() != nil {
		return 0, false
	}
	wait, most := firstWait<<r.n, maxRetries
	var status *statusError
	switch {
	case errors.As(err, &status) && (status.code == http.StatusTooManyRequests || status.code == http.StatusServiceUnavailable):
		most = maxWaits
		if status.retryAfter > 0 {
			wait = status.retryAfter
		}
	case errors.As(err, &status) && (status.code >= 500 || status.code == http.StatusRequestTimeout):
	case status == nil && interrupted(ctx, err):
	default:
		return 0, false
	}
	if r.n >= most || wait > r.left {
		return 0, false
	}
	r.n++
	r.left -= wait
	return wait, true
}

// interrupted reports whether the connection, not the registry, said no.
func interrupted(ctx context.Context, err error) bool {
	if ctx.Err() != nil {
		return false
	}
	var netErr net.Error
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &netErr) && netErr.Timeout()
}

// hostError is what became of asking one host.
type hostError struct {
	host *host
	err  error
}

type hostErrors []hostError

func (all hostErrors) Error() string {
	texts := make([]string, 0, len(all))
	for _, e := range all {
		texts = append(texts, fmt.Sprintf("%s (%s): %v%s", e.host.conf.URL(), e.host.conf.Reason, e.err, e.host.remedy(e.err)))
	}
	return strings.Join(texts, "; ")
}

func (all hostErrors) Unwrap() []error {
	errs := make([]error, 0, len(all))
	for _, e := range all {
		errs = append(errs, e.err)
	}
	return errs
}

// noteFailure remembers hosts that cannot be reached or cannot serve: the next request asks them last.
func (h *host) noteFailure(err error) {
	var status *statusError
	answered := errors.As(err, &status) && status.code < 500 && status.code != http.StatusTooManyRequests
	if !answered && kindOf(err) == imageservice.ErrUnavailable {
		h.down.Store(true)
	}
}

// classify gives the errors of a round through all hosts their kind: that of the last one, which is the registry itself
// unless the configuration says otherwise.
func (s *Session) classify(failed hostErrors) error {
	last := failed[len(failed)-1].err
	kind := kindOf(last)
	if kind == nil {
		return fmt.Errorf("registry %s: %w", s.registry, failed)
	}
	hint := ""
	if kind == imageservice.ErrUnauthorized {
		hint = " (wrong or missing credentials, or no such repository)"
	}
	// Only the last host's errors may decide what errors.Is finds.
	return &registryError{text: fmt.Sprintf("registry %s: %v%s: %v", s.registry, kind, hint, failed), kind: kind, cause: last}
}

// registryError is an error of one kind whose text tells of all hosts.
type registryError struct {
	text  string
	kind  error
	cause error
}

func (e *registryError) Error() string   { return e.text }
func (e *registryError) Unwrap() []error { return []error{e.kind, e.cause} }

// kindOf is the sentinel that an error of asking a host stands for; nil when it has one already or is of this machine's
// configuration.
func kindOf(err error) error {
	var status *statusError
	var token remoteerrors.ErrUnexpectedStatus
	code := 0
	if errors.As(err, &status) {
		code = status.code
	} else if errors.As(err, &token) {
		code = token.StatusCode
	}
	switch {
	case errors.Is(err, hosts.ErrInvalid), errors.Is(err, imageservice.ErrUnauthorized), errors.Is(err, imageservice.ErrCorrupt):
		return nil
	case errors.Is(err, docker.ErrInvalidAuthorization), code == http.StatusUnauthorized, code == http.StatusForbidden:
		return imageservice.ErrUnauthorized
	case errors.Is(err, imageservice.ErrNotFound):
		return imageservice.ErrNotFound
	}
	return imageservice.ErrUnavailable
}

// remedy says what to configure, for the errors that configuration mends.
func (h *host) remedy(err error) string {
	var untrusted x509.UnknownAuthorityError
	var invalid *tls.CertificateVerificationError
	switch {
	case errors.As(err, &untrusted), errors.As(err, &invalid):
		return fmt.Sprintf(" (its certificate is not trusted: name its CA in certs.d/%s/hosts.toml)", h.registry)
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return fmt.Sprintf(" (it speaks plain HTTP: write server = \"http://%s\" into certs.d/%s/hosts.toml to allow that)", h.conf.Host, h.registry)
	}
	return ""
}
