// Package remote talks to registries (OCI distribution specification 1.1, docker registry API v2) through
// containerd's client.
//
// Which hosts stand for a registry, and how to reach them, is read afresh for every pull from
// <certs dir>/<host>/hosts.toml, or from _default/hosts.toml, in containerd's format. Without one it is the
// registry's own host over HTTPS; localhost is also tried over plain HTTP. Credentials come from the request, else
// from docker's config.json and its credential helpers.
//
// Every exchange is watched: when no byte arrives for the stall timeout it ends with ErrPullStalled. A connection
// lost on the way is taken up again where it broke.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/log"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"

	"github.com/skiff-node/skiff/imageservice"
)

// Config says how registries are reached.
type Config struct {
	CertsDirs    []string      // directories of <host>/hosts.toml, searched in order
	DockerConfig string        // docker config.json, optional
	StallTimeout time.Duration // required
}

// Session is the conversation about one image. Fetch may be called concurrently.
type Session struct {
	ref     string
	host    string // of the registry, as in the reference
	stall   time.Duration
	docker  remotes.Resolver
	mu      sync.Mutex
	clients []*http.Client
	fetcher remotes.Fetcher
}

// Open starts a session about a full reference. It reads configuration and does not talk to the registry yet.
func Open(ctx context.Context, cfg Config, ref string, auth imageservice.Auth) (*Session, error) {
	host, _, ok := strings.Cut(ref, "/")
	if !ok {
		return nil, fmt.Errorf("%w: %q has no registry", imageservice.ErrInvalidReference, ref)
	}
	s := &Session{ref: ref, host: host, stall: cfg.StallTimeout}
	credentials, err := newCredentials(host, strings.TrimPrefix(ref, host+"/"), auth, cfg.DockerConfig)
	if err != nil {
		return nil, err
	}
	hosts := config.ConfigureHosts(quiet(ctx), config.HostOptions{
		HostDir:      func(host string) (string, error) { return hostDir(cfg.CertsDirs, host) },
		Credentials:  credentials.lookup,
		UpdateClient: s.remember,
	})
	s.docker = docker.NewResolver(docker.ResolverOptions{Hosts: credentials.withToken(hosts)})
	return s, nil
}

// remember notes an HTTP client whose connections Close closes, and fits it to parallel downloads.
func (s *Session) remember(c *http.Client) error {
	if t, ok := c.Transport.(*http.Transport); ok {
		t.MaxIdleConns, t.MaxIdleConnsPerHost = 32, 16
		t.ReadBufferSize = 64 << 10
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients = append(s.clients, c)
	return nil
}

// Close closes idle connections.
func (s *Session) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.clients {
		c.CloseIdleConnections()
	}
}

// hostDir finds the configuration of a host and refuses a broken one: ignoring it could mean asking another registry
// than the one that was meant.
func hostDir(roots []string, host string) (string, error) {
	for _, root := range roots {
		dir, err := config.HostDirFromRoot(root)(host)
		if err != nil {
			continue
		}
		return dir, checkHosts(filepath.Join(dir, "hosts.toml"))
	}
	return "", nil
}

// quiet keeps containerd's client from logging; what it has to say is in its errors.
func quiet(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// Resolve asks which index or manifest the reference means.
func (s *Session) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	ctx, watch := newWatch(quiet(ctx), s.stall)
	defer watch.stop()
	_, desc, err := s.docker.Resolve(ctx, s.ref)
	if err != nil {
		return desc, s.classify(ctx, err)
	}
	fetcher, err := s.docker.Fetcher(ctx, s.ref)
	if err != nil {
		return desc, s.classify(ctx, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fetcher = fetcher
	return desc, nil
}

// attempts is how often a fetch is taken up again without having got a byte further.
const attempts = 3

// Fetch writes the bytes of a blob to w, after Resolve. They are not verified. arrived, which may be nil, is told how
// many there are so far.
func (s *Session) Fetch(ctx context.Context, desc ocispec.Descriptor, w io.Writer, arrived func(int64)) error {
	s.mu.Lock()
	fetcher := s.fetcher
	s.mu.Unlock()
	if fetcher == nil {
		return errors.New("fetch before resolve")
	}
	desc.URLs = nil // only the configured hosts are asked, not whom a manifest names
	ctx, watch := newWatch(quiet(ctx), s.stall)
	defer watch.stop()
	out := &counter{w: w, arrived: func(n int64) {
		watch.reset()
		if arrived != nil {
			arrived(n)
		}
	}}
	var err error
	for left := attempts; left > 0; left-- {
		before := out.n
		if err = fetchFrom(ctx, fetcher, desc, out); err == nil {
			return nil
		}
		if !worthRetry(ctx, err) || out.failed {
			break
		}
		if out.n > before {
			left = attempts
		}
		pause(ctx, time.Duration(attempts-left+1)*100*time.Millisecond)
	}
	if out.failed {
		return err // of this machine's disk, not of the registry
	}
	return s.classify(ctx, err)
}

// fetchFrom fetches what out does not have yet.
func fetchFrom(ctx context.Context, f remotes.Fetcher, desc ocispec.Descriptor, out *counter) error {
	body, err := f.Fetch(ctx, desc)
	if err != nil {
		return err
	}
	defer body.Close()
	if out.n > 0 {
		seeker, ok := body.(io.Seeker)
		if !ok {
			return errors.New("the registry client cannot resume")
		}
		if _, err := seeker.Seek(out.n, io.SeekStart); err != nil {
			return err
		}
	}
	_, err = io.CopyBuffer(out, body, make([]byte, 128<<10))
	return err
}

// counter counts what went through and remembers whether it was the writer that failed.
type counter struct {
	w       io.Writer
	n       int64
	failed  bool
	arrived func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.failed = err != nil
	c.arrived(c.n)
	return n, err
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// watch ends an exchange in which nothing moves.
type watch struct {
	timer   *time.Timer
	timeout time.Duration
	cancel  context.CancelCauseFunc
}

func newWatch(ctx context.Context, timeout time.Duration) (context.Context, *watch) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watch{timeout: timeout, cancel: cancel}
	w.timer = time.AfterFunc(timeout, func() {
		cancel(fmt.Errorf("%w: no byte for %s", imageservice.ErrPullStalled, timeout))
	})
	return ctx, w
}

func (w *watch) reset() { w.timer.Reset(w.timeout) }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(nil)
}
