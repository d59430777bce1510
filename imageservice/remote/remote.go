// Package remote talks to registries (OCI distribution specification 1.1, docker registry API v2).
//
// Which hosts stand for a registry, and how to reach them, is read afresh for every pull (package hosts), as is what is
// shown to each (package creds). The hosts are asked in order, each on its own: with its own connections, its own
// trust and its own credential, which no redirect, mirror or token server in the clear gets to see. When one cannot
// serve, the next is asked; an error at the end tells what each of them said.
//
//	Open ─► Resolve (tag → digest) ─► Fetch, concurrently: blobs and documents by digest ─► Close
//
// Every exchange is watched: when too few bytes arrive in a window of time it ends with ErrPullStalled. A connection
// lost on the way is taken up again where it broke, if need be from another host. What a registry asks by Retry-After
// is done, within bounds. Nothing that arrives is believed: who calls verifies digests.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/remote/creds"
	"github.com/skiff-node/skiff/imageservice/remote/hosts"
)

// Config says how registries are reached.
type Config struct {
	CertsDirs    []string      // directories of <host>/hosts.toml, searched in order
	DockerConfig string        // docker config.json, optional
	StallTimeout time.Duration // required: the window in which StallBytes must arrive
	StallBytes   int64         // 0: one byte
	// Patience is how long a host that says "later" is waited for, in all, per request. 0: one minute.
	Patience time.Duration
	// Notice is told what a person should know but no error says, e.g. that a mirror was passed over. Optional.
	Notice func(string)
}

// Session is the conversation about one reference. Fetch may be called concurrently.
type Session struct {
	cfg        Config
	registry   string // of the reference
	repository string
	object     string // tag or digest
	hosts      []*host

	mu        sync.Mutex
	documents map[digest.Digest]bool  // digests that Resolve found at the address of a manifest
	served    map[digest.Digest]*host // who was asked last
}

// Open starts a session about a full reference. It reads configuration and does not talk to the registry yet.
func Open(cfg Config, ref string, auth imageservice.Auth) (*Session, error) {
	s := &Session{cfg: cfg, documents: map[digest.Digest]bool{}, served: map[digest.Digest]*host{}}
	if err := s.name(ref); err != nil {
		return nil, err
	}
	if s.cfg.Patience <= 0 {
		s.cfg.Patience = time.Minute
	}
	if s.cfg.Notice == nil {
		s.cfg.Notice = func(string) {}
	}
	registry, err := hosts.Find(cfg.CertsDirs, s.registry)
	if err != nil {
		return nil, err
	}
	for _, w := range registry.Warnings {
		s.cfg.Notice(w)
	}
	chain, err := creds.New(s.registry, s.repository, auth, cfg.DockerConfig)
	if err != nil {
		return nil, err
	}
	for _, conf := range registry.Hosts {
		h, err := newHost(conf, s.registry, s.repository, chain)
		if err != nil {
			s.Close()
			return nil, err
		}
		h.patience = s.cfg.Patience
		s.hosts = append(s.hosts, h)
	}
	return s, nil
}

// name takes the reference apart.
func (s *Session) name(ref string) error {
	registry, rest, ok := strings.Cut(ref, "/")
	if !ok {
		return fmt.Errorf("%w: %q has no registry", imageservice.ErrInvalidReference, ref)
	}
	s.registry = registry
	if repository, d, ok := strings.Cut(rest, "@"); ok {
		s.repository, _, _ = strings.Cut(repository, ":")
		s.object = d
		return nil
	}
	i := strings.LastIndex(rest, ":")
	if i < 0 {
		return fmt.Errorf("%w: %q has neither tag nor digest", imageservice.ErrInvalidReference, ref)
	}
	s.repository, s.object = rest[:i], rest[i+1:]
	return nil
}

// Close closes idle connections.
func (s *Session) Close() {
	for _, h := range s.hosts {
		h.closeIdle()
	}
}

// accept lists the media types that the address of a manifest may answer with.
const accept = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, " +
	"application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*"

// Resolve asks which index or manifest the reference means. A tag is believed only of hosts that may resolve.
func (s *Session) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	return s.ResolveTag(ctx, s.object)
}

// ResolveTag is Resolve for another tag or digest of the same repository.
func (s *Session) ResolveTag(ctx context.Context, object string) (ocispec.Descriptor, error) {
	need := []string{hosts.Pull, hosts.Resolve}
	if digest.Digest(object).Validate() == nil {
		need = need[:1]
	}
	var desc ocispec.Descriptor
	ctx, watch := newWatch(ctx, s.cfg.StallTimeout+s.cfg.Patience, 1)
	defer watch.stop()
	err := s.each(ctx, need, func(ctx context.Context, h *host, last bool) (err error) {
		desc, err = h.resolve(ctx, object, last)
		return err
	})
	if err == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.documents[desc.Digest] = true
	}
	return desc, err
}

// wanted is a blob or document and where it is below the repository.
type wanted struct {
	path, accept string
	size         int64
}

func (s *Session) locate(d ocispec.Descriptor) wanted {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.documents[d.Digest] || images.IsManifestType(d.MediaType) || images.IsIndexType(d.MediaType) {
		return wanted{"manifests/" + d.Digest.String(), accept, d.Size}
	}
	return wanted{"blobs/" + d.Digest.String(), "*/*", d.Size}
}

// Fetch writes the bytes of a blob or document to w. They are not verified. arrived, which may be nil, is told how
// many there are so far.
func (s *Session) Fetch(ctx context.Context, desc ocispec.Descriptor, w io.Writer, arrived func(int64)) error {
	ctx, watch := newWatch(ctx, s.cfg.StallTimeout, s.cfg.StallBytes)
	defer watch.stop()
	out := &counter{w: w, arrived: func(n int64) {
		watch.arrived(n)
		if arrived != nil {
			arrived(n)
		}
	}}
	return s.each(ctx, []string{hosts.Pull}, func(ctx context.Context, h *host, last bool) error {
		s.mu.Lock()
		s.served[desc.Digest] = h
		s.mu.Unlock()
		err := h.fetch(ctx, s.locate(desc), out, last)
		if out.failed != nil {
			return localError{out.failed} // of this machine's disk, not of the registry
		}
		return err
	})
}

// Blame tells that what was fetched is not what the digest says. The host that sent it is asked last from now on; Blame
// reports whether there is another one to ask.
func (s *Session) Blame(d digest.Digest) bool {
	s.mu.Lock()
	h := s.served[d]
	s.mu.Unlock()
	if h == nil || h.down.Swap(true) {
		return false
	}
	for _, other := range s.able(hosts.Pull) {
		if !other.down.Load() {
			s.cfg.Notice(fmt.Sprintf("registry %s: %s sent something else than %s", s.registry, h.conf.URL(), d))
			return true
		}
	}
	return false
}

// Referrers asks which manifests refer to a digest (distribution specification, "Listing Referrers"). A registry without
// that API has none.
func (s *Session) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	var index ocispec.Index
	err := s.each(ctx, []string{hosts.Pull, hosts.Referrers}, func(ctx context.Context, h *host, last bool) error {
		return h.document(ctx, "referrers/"+subject.String(), &index, last)
	})
	if errors.Is(err, imageservice.ErrNotFound) {
		return nil, nil
	}
	return index.Manifests, err
}

// localError ends a round through the hosts: no other host can mend it.
type localError struct{ error }

func (e localError) Unwrap() error { return e.error }

// each asks the hosts that may do what is needed, in order, until one succeeds.
func (s *Session) each(ctx context.Context, need []string, ask func(context.Context, *host, bool) error) error {
	able := s.able(need...)
	if len(able) == 0 {
		return fmt.Errorf("registry %s: %w: its configuration has no host with the capabilities %s", s.registry, imageservice.ErrUnavailable, strings.Join(need, " and "))
	}
	var failed hostErrors
	for i, h := range able {
		err := ask(ctx, h, i == len(able)-1)
		if err == nil {
			if len(failed) > 0 {
				s.cfg.Notice(fmt.Sprintf("registry %s: %s served what others could not: %v", s.registry, h.conf.URL(), failed))
			}
			return nil
		}
		var local localError
		if errors.As(err, &local) {
			return local.error
		}
		if cause := context.Cause(ctx); cause != nil {
			return fmt.Errorf("registry %s: %w", s.registry, cause)
		}
		h.noteFailure(err)
		failed = append(failed, hostError{h, err})
	}
	return s.classify(failed)
}

// able returns the hosts with the capabilities, those that were found unreachable in this session last.
func (s *Session) able(need ...string) []*host {
	var up, down []*host
	for _, h := range s.hosts {
		switch {
		case !h.conf.Can(need...):
		case h.down.Load():
			down = append(down, h)
		default:
			up = append(up, h)
		}
	}
	return append(up, down...)
}

// counter counts what went through and remembers whether it was the writer that failed.
type counter struct {
	w       io.Writer
	n       int64
	failed  error
	arrived func(int64)
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	c.failed = err
	c.arrived(c.n)
	return n, err
}

// skip makes sure that the reply goes on after the bytes that arrived before; a server may not heed ranges.
func skip(resp *http.Response, have int64) error {
	if have == 0 {
		return nil
	}
	if resp.StatusCode == http.StatusPartialContent {
		rest, ok := strings.CutPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(have, 10)+"-")
		if !ok || rest == "" {
			return fmt.Errorf("asked for the bytes from %d on, the reply has %q", have, resp.Header.Get("Content-Range"))
		}
		return nil
	}
	if _, err := io.CopyN(io.Discard, resp.Body, have); err != nil {
		return fmt.Errorf("read past the first %d bytes: %w", have, err)
	}
	return nil
}
