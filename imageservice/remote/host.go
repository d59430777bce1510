package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/remote/creds"
	"github.com/skiff-node/skiff/imageservice/remote/hosts"
)

// host is the conversation with one host.
type host struct {
	conf       hosts.Host
	registry   string // for which it stands
	repository string
	client     *http.Client
	authorizer docker.Authorizer
	closeIdle  func()
	patience   time.Duration
	down       atomic.Bool // it could not be reached, or not serve, in this session

	credential func(context.Context) (creds.Credential, error)
	token      atomic.Pointer[string] // bearer token that is sent as it is
}

func newHost(conf hosts.Host, registry, repository string, chain *creds.Chain) (*host, error) {
	transport, idle, err := newTransport(conf)
	if err != nil {
		return nil, err
	}
	h := &host{conf: conf, registry: registry, repository: repository, closeIdle: idle}
	h.client = &http.Client{Transport: transport, CheckRedirect: follow(conf.Header)}
	h.credential = once(func(ctx context.Context) (creds.Credential, error) { return chain.For(ctx, conf) })
	secret := &atomic.Bool{}
	h.authorizer = docker.NewDockerAuthorizer(
		docker.WithAuthClient(&http.Client{Transport: tokenTransport{inner: transport, host: conf, secret: secret}}),
		docker.WithAuthCreds(func(name string) (string, string, error) {
			if name != conf.Host {
				return "", "", nil // where a redirect led
			}
			c, err := h.credential(context.Background())
			secret.Store(!c.Empty())
			return c.Username, c.Secret, err
		}),
	)
	return h, nil
}

// once remembers a credential: a helper is asked only if the host wants one, and then once.
func once(ask func(context.Context) (creds.Credential, error)) func(context.Context) (creds.Credential, error) {
	var mu sync.Mutex
	var known bool
	var c creds.Credential
	return func(ctx context.Context) (creds.Credential, error) {
		mu.Lock()
		defer mu.Unlock()
		if known {
			return c, nil
		}
		var err error
		if c, err = ask(ctx); err == nil {
			known = true
		}
		return c, err
	}
}

// request describes one request below the host's repository.
type request struct {
	method string
	path   string // "manifests/v1"
	accept string
	from   int64 // first byte wanted
}

// do sends a request and returns a reply of success. It proves who asks and comes back later, where the host wants that.
func (h *host) do(ctx context.Context, r request, last bool) (*http.Response, error) {
	ctx = docker.ContextWithAppendPullRepositoryScope(quiet(ctx), h.repository)
	again := retries{left: h.patience, last: last}
	var replies []*http.Response
	for {
		resp, err := h.send(ctx, r)
		if err == nil && resp.StatusCode < 300 {
			return resp, nil
		}
		if err == nil {
			replies, err = append(replies, resp), readStatus(resp)
		}
		if challenged(err) && len(replies) <= maxChallenges {
			if err := h.prove(ctx, replies); err != nil {
				return nil, err
			}
			continue
		}
		wait, ok := again.next(ctx, err)
		if !ok {
			return nil, err
		}
		pause(ctx, wait)
	}
}

func challenged(err error) bool {
	var status *statusError
	return errors.As(err, &status) && status.code == http.StatusUnauthorized
}

// maxChallenges is how often one request may be answered by asking for another proof.
const maxChallenges = 2

func (h *host) send(ctx context.Context, r request) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, r.method, h.conf.URL()+"/"+h.repository+"/"+r.path, nil)
	if err != nil {
		return nil, err
	}
	for key, values := range h.conf.Header {
		req.Header[key] = append([]string(nil), values...)
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "skiff")
	}
	req.Header.Set("Accept", r.accept)
	if r.from > 0 {
		req.Header.Set("Range", "bytes="+strconv.FormatInt(r.from, 10)+"-")
	}
	if h.registry != h.conf.Host && !(h.registry == "docker.io" && h.conf.Host == "registry-1.docker.io") {
		// Tells a mirror of several registries which one is meant, as containerd does.
		q := req.URL.Query()
		q.Set("ns", h.registry)
		req.URL.RawQuery = q.Encode()
	}
	if token := h.token.Load(); token != nil {
		req.Header.Set("Authorization", "Bearer "+*token)
	} else if err := h.authorizer.Authorize(ctx, req); err != nil {
		return nil, fmt.Errorf("get access to %s: %w", h.conf.Host, err)
	}
	return h.client.Do(req)
}

// prove answers a challenge.
func (h *host) prove(ctx context.Context, replies []*http.Response) error {
	c, err := h.credential(ctx)
	if err != nil {
		return err
	}
	refused := fmt.Errorf("credentials of %s: %w", orNone(c.Source), docker.ErrInvalidAuthorization)
	if c.Token != "" {
		if h.token.Load() != nil {
			return refused
		}
		h.token.Store(&c.Token)
		return nil
	}
	if len(replies) > 1 && strings.HasPrefix(replies[len(replies)-1].Request.Header.Get("Authorization"), "Basic ") {
		return refused
	}
	if err := h.authorizer.AddResponses(ctx, replies); err != nil {
		return fmt.Errorf("get access to %s with %s: %w", h.conf.Host, orNone(c.Source), err)
	}
	return nil
}

func orNone(source string) string {
	if source == "" {
		return "none"
	}
	return source
}

// resolve asks what a tag, or a digest, means.
func (h *host) resolve(ctx context.Context, object string, last bool) (ocispec.Descriptor, error) {
	resp, err := h.do(ctx, request{method: http.MethodHead, path: "manifests/" + object, accept: accept}, last)
	var status *statusError
	if errors.As(err, &status) && status.code == http.StatusMethodNotAllowed {
		return h.resolveByContent(ctx, object, last)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	resp.Body.Close()
	d := digest.Digest(object)
	if d.Validate() != nil {
		d = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	}
	if d.Validate() != nil || resp.ContentLength < 0 {
		return h.resolveByContent(ctx, object, last)
	}
	if resp.ContentLength > maxDocument {
		return ocispec.Descriptor{}, fmt.Errorf("manifest of %s has %d bytes, at most %d are taken: %w", object, resp.ContentLength, maxDocument, imageservice.ErrCorrupt)
	}
	return ocispec.Descriptor{MediaType: mediaType(resp), Digest: d, Size: resp.ContentLength}, nil
}

// maxDocument bounds what is read into memory.
const maxDocument = 16 << 20

// resolveByContent is for registries that do not say what they have without sending it.
func (h *host) resolveByContent(ctx context.Context, object string, last bool) (ocispec.Descriptor, error) {
	resp, err := h.do(ctx, request{method: http.MethodGet, path: "manifests/" + object, accept: accept}, last)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument+1))
	switch {
	case err != nil:
		return ocispec.Descriptor{}, err
	case len(doc) > maxDocument:
		return ocispec.Descriptor{}, fmt.Errorf("manifest of %s has more than %d bytes: %w", object, maxDocument, imageservice.ErrCorrupt)
	}
	d := digest.FromBytes(doc)
	if want := digest.Digest(object); want.Validate() == nil {
		d = want // checked when it is stored
	}
	return ocispec.Descriptor{MediaType: mediaType(resp), Digest: d, Size: int64(len(doc))}, nil
}

func mediaType(resp *http.Response) string {
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}

// document reads a small JSON document.
func (h *host) document(ctx context.Context, path string, into any, last bool) error {
	resp, err := h.do(ctx, request{method: http.MethodGet, path: path, accept: "application/json, */*"}, last)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(into); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// fetch copies what out does not have yet of a blob or document, taking up again what breaks off.
func (h *host) fetch(ctx context.Context, d wanted, out *counter, last bool) error {
	var err error
	for left := attempts; left > 0; left-- {
		before := out.n
		if err = h.copy(ctx, d, out, last); err == nil || !interrupted(ctx, err) || out.failed != nil {
			return err
		}
		if out.n > before {
			left = attempts
		}
		pause(ctx, time.Duration(attempts-left+1)*100*time.Millisecond)
	}
	return err
}

// attempts is how often a fetch is taken up again without having got a byte further.
const attempts = 3

func (h *host) copy(ctx context.Context, d wanted, out *counter, last bool) error {
	if d.size > 0 && out.n >= d.size {
		return nil
	}
	resp, err := h.do(ctx, request{method: http.MethodGet, path: d.path, accept: d.accept, from: out.n}, last)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if err := skip(resp, out.n); err != nil {
		return err
	}
	if _, err := io.CopyBuffer(out, resp.Body, make([]byte, 128<<10)); err != nil {
		return err
	}
	if out.n < d.size {
		return fmt.Errorf("the reply ends after %d of %d bytes: %w", out.n, d.size, io.ErrUnexpectedEOF)
	}
	return nil
}

// quiet keeps containerd's authorizer from logging; what it has to say is in its errors.
func quiet(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	return log.WithLogger(ctx, logrus.NewEntry(l))
}
