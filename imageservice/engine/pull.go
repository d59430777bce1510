package engine

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/content"
	"github.com/skiff-node/skiff/imageservice/engine/catalog"
	"github.com/skiff-node/skiff/imageservice/engine/meter"
	"github.com/skiff-node/skiff/imageservice/engine/trust"
	"github.com/skiff-node/skiff/imageservice/policy"
	"github.com/skiff-node/skiff/imageservice/record"
	"github.com/skiff-node/skiff/imageservice/remote"
)

// Pull fetches, verifies and unpacks an image and returns it.
func (e *Engine) Pull(ctx context.Context, r imageservice.PullRequest) (imageservice.Image, error) {
	ended := e.meter.Pull()
	img, err := e.pull(ctx, r)
	ended(err)
	return img, err
}

func (e *Engine) pull(ctx context.Context, r imageservice.PullRequest) (imageservice.Image, error) {
	n, err := catalog.ParseName(r.Reference)
	if err != nil {
		return imageservice.Image{}, err
	}
	if r.Progress == nil {
		r.Progress = func(imageservice.Progress) {}
	}
	hold := e.pool.lease()
	id, err := e.pullHeld(ctx, n, r, hold)
	hold.release()
	if err != nil {
		if sweepErr := e.janitor.sweep(); sweepErr != nil {
			e.log.Warn("cannot clean up after a failed pull", "image", n.Full, "err", sweepErr)
		}
		return imageservice.Image{}, fmt.Errorf("pull %s: %w", n.Full, classify(err))
	}
	return e.catalog.Image(id)
}

func (e *Engine) pullHeld(ctx context.Context, n catalog.Name, r imageservice.PullRequest, hold *lease) (digest.Digest, error) {
	rule, err := e.guard.Rule(policy.Docker, n.Full)
	if err != nil {
		return "", err
	}
	if err := rule.Hopeless(policy.Image{Reference: n.Full}); err != nil {
		return "", err
	}
	session, err := remote.Open(registries(e, n.Full), n.Full, r.Auth)
	if err != nil {
		return "", err
	}
	defer session.Close()
	r.Progress(imageservice.Progress{Stage: "resolving"})
	target, err := session.Resolve(ctx)
	if err != nil {
		return "", err
	}
	from := &registry{session: session, content: e.pool.content, slots: e.fetch, meter: &e.meter}
	a := &arrival{engine: e, source: from, lease: hold, report: r.Progress, admit: trust.Pulled(session, rule, n.Full)}
	img, err := a.assemble(ctx, target)
	if err != nil {
		return "", err
	}
	img.Tags, img.Digests = n.Tags(), n.Digests(target.Digest)
	return img.ID, announce(e, []*record.Image{img})
}

// registries is how registries are reached, for a pull of that name.
func registries(e *Engine, name string) remote.Config {
	cfg := current(e)
	return remote.Config{
		CertsDirs: cfg.CertsDirs, DockerConfig: cfg.DockerConfig, StallTimeout: cfg.StallTimeout, StallBytes: cfg.StallBytes,
		Notice: func(text string) {
			e.log.Warn("pulling goes on although something is amiss", "image", name, "what", text)
		},
	}
}

// registry is the source of pulls.
type registry struct {
	session *remote.Session
	content *content.Store
	slots   *semaphore.Weighted
	meter   *meter.Meter
}

// step is how many bytes pass between two progress reports.
const step = 512 << 10

func (r *registry) bring(ctx context.Context, d ocispec.Descriptor, l *lease, report func(imageservice.Progress)) (err error) {
	if err := r.slots.Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer r.slots.Release(1)
	ended := r.meter.Fetch()
	defer func() { ended(err) }()
	for {
		err = r.fetch(ctx, d, l, report)
		// A mirror that sends rubbish must not keep a pull from succeeding.
		if !errors.Is(err, imageservice.ErrCorrupt) || !r.session.Blame(d.Digest) {
			return err
		}
	}
}

// fetch writes one blob into the store.
func (r *registry) fetch(ctx context.Context, d ocispec.Descriptor, l *lease, report func(imageservice.Progress)) error {
	w, err := r.content.Writer(d)
	if err != nil {
		return err
	}
	defer w.Discard()
	last, counted := int64(-step), int64(0)
	err = r.session.Fetch(ctx, d, w, func(n int64) {
		r.meter.Bytes(n - counted)
		counted = n
		if n-last >= step || n == d.Size {
			last = n
			report(imageservice.Progress{Digest: d.Digest.String(), Stage: "downloading", Done: n, Total: d.Size})
		}
	})
	if err != nil {
		return fmt.Errorf("fetch %s: %w", d.Digest, err)
	}
	_, err = l.commit(w)
	return err
}
