package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/manifest"
	"github.com/skiff-node/skiff/imageservice/record"
	"github.com/skiff-node/skiff/imageservice/unpack"
)

// source brings blobs that the store lacks.
type source interface {
	// bring writes the blob into the store; the lease holds it.
	bring(ctx context.Context, desc ocispec.Descriptor, l *lease, report func(imageservice.Progress)) error
}

// nowhere is the source of imports: all there is came with the archive.
type nowhere struct{}

var errLacking = errors.New("the archive lacks blob")

func (nowhere) bring(_ context.Context, d ocispec.Descriptor, _ *lease, _ func(imageservice.Progress)) error {
	return fmt.Errorf("%w %s: %w", errLacking, d.Digest, imageservice.ErrCorrupt)
}

// arrival is one image on its way into the store.
type arrival struct {
	engine *Engine
	source source
	lease  *lease
	report func(imageservice.Progress)
	// admit refuses what the signature policy does not allow, before the layers are fetched, and notes in the record how the
	// image arrived.
	admit func(context.Context, *record.Image) error
}

// assemble brings and unpacks the image or artifact at target and returns its record, which is not saved yet.
func (a *arrival) assemble(ctx context.Context, target ocispec.Descriptor) (*record.Image, error) {
	c, err := a.choose(ctx, target, 0)
	if err != nil {
		return nil, err
	}
	r := &record.Image{Version: record.Version, Manifest: c.desc, Config: c.manifest.Config, Annotations: c.manifest.Annotations, Updated: time.Now()}
	if len(c.indexes) > 0 {
		r.Index, r.Nested = &c.indexes[0], c.indexes[1:]
	}
	if err := a.admit(ctx, r); err != nil {
		return nil, err
	}
	if manifest.IsArtifact(c.manifest) {
		return r, a.artifact(ctx, r, c.manifest)
	}
	return r, a.layers(ctx, r, c)
}

// layers brings and unpacks the layers of an image.
func (a *arrival) layers(ctx context.Context, r *record.Image, c choice) error {
	r.ID, r.Runtime = c.manifest.Config.Digest, c.image.Config
	blobs := c.manifest.Layers
	r.Layers = make([]record.Layer, len(blobs))
	ready := make([]chan struct{}, len(blobs)) // closed when r.Layers[i] is complete
	for i := range ready {
		ready[i] = make(chan struct{})
	}
	group, ctx := errgroup.WithContext(ctx)
	for i, blob := range blobs {
		l := record.Layer{Blob: blob, Diff: c.image.DiffIDs[i], Chain: c.image.ChainIDs[i]}
		group.Go(func() error {
			below := func() ([]record.Layer, error) { return r.Layers[:i], waitFor(ctx, ready[:i]) }
			got, err := a.layer(ctx, l, below)
			if err != nil {
				return fmt.Errorf("layer %s: %w", blob.Digest, err)
			}
			r.Layers[i] = got
			close(ready[i])
			return nil
		})
	}
	return group.Wait()
}

// waitFor waits for the layers below. The last one suffices, as each waits for its own.
func waitFor(ctx context.Context, ready []chan struct{}) error {
	if len(ready) == 0 {
		return nil
	}
	select {
	case <-ready[len(ready)-1]:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// document brings a small blob and returns it.
func (a *arrival) document(ctx context.Context, d ocispec.Descriptor) ([]byte, error) {
	if d.Size > manifest.Limit {
		return nil, fmt.Errorf("document %s has %d bytes, at most %d are taken: %w", d.Digest, d.Size, manifest.Limit, imageservice.ErrCorrupt)
	}
	if err := a.blob(ctx, d); err != nil {
		return nil, err
	}
	doc, err := a.engine.pool.content.Read(d.Digest, manifest.Limit)
	if errors.Is(err, imageservice.ErrCorrupt) {
		// The disk lost it. Bring it again, once.
		if err := a.engine.pool.content.Delete(d.Digest); err != nil {
			return nil, err
		}
		if err := a.blob(ctx, d); err != nil {
			return nil, err
		}
		doc, err = a.engine.pool.content.Read(d.Digest, manifest.Limit)
	}
	if err == nil {
		a.done(d)
	}
	return doc, err
}

func (a *arrival) done(d ocispec.Descriptor) {
	a.report(imageservice.Progress{Digest: d.Digest.String(), Stage: "done", Done: d.Size, Total: d.Size})
}

// blob makes sure that the blob is in the store and held.
func (a *arrival) blob(ctx context.Context, d ocispec.Descriptor) error {
	if err := d.Digest.Validate(); err != nil {
		return fmt.Errorf("digest %q: %w: %w", d.Digest, err, imageservice.ErrCorrupt)
	}
	a.lease.hold(d.Digest.String())
	brought := false
	err := a.engine.flights.do(ctx, d.Digest.String(), a.report, func(report func(imageservice.Progress)) error {
		if a.engine.pool.content.Has(d.Digest, d.Size) {
			report(imageservice.Progress{Digest: d.Digest.String(), Stage: "exists", Done: d.Size, Total: d.Size})
			return nil
		}
		brought = true
		return a.source.bring(ctx, d, a.lease, report)
	})
	if err == nil && !brought {
		a.engine.meter.SharedBlob()
	}
	return err
}

// blobs makes sure that all of them are.
func (a *arrival) blobs(ctx context.Context, all []ocispec.Descriptor) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range all {
		group.Go(func() error {
			err := a.blob(ctx, d)
			if err == nil {
				a.done(d)
			}
			return err
		})
	}
	return group.Wait()
}

// layer makes sure that the layer is unpacked and held, and returns it completed. below waits for the layers
// under it; they are needed only at the very end.
func (a *arrival) layer(ctx context.Context, l record.Layer, below func() ([]record.Layer, error)) (record.Layer, error) {
	a.lease.hold(layerKey(l.Chain))
	if err := a.blob(ctx, l.Blob); err != nil {
		return l, err
	}
	var made record.Layer
	err := a.engine.flights.do(ctx, layerKey(l.Chain), a.report, func(report func(imageservice.Progress)) error {
		if _, ok := a.engine.pool.shared(l.Chain); ok {
			return nil
		}
		report(imageservice.Progress{Digest: l.Blob.Digest.String(), Stage: "unpacking", Total: l.Blob.Size})
		var err error
		if made, err = a.unpack(ctx, l, below); err != nil {
			return err
		}
		a.engine.pool.share(made)
		return nil
	})
	if err != nil {
		return l, err
	}
	if made.Dir == "" {
		a.engine.meter.SharedLayer()
	} else {
		a.engine.meter.Unpacked()
	}
	// Layers below must be complete also where this one was there before.
	if _, err := below(); err != nil {
		return l, err
	}
	have, ok := a.engine.pool.shared(l.Chain)
	if !ok {
		return l, fmt.Errorf("unpacked layer %s vanished: %w", l.Chain, imageservice.ErrCorrupt)
	}
	a.done(l.Blob)
	l.Dir, l.Bytes, l.Inodes = have.Dir, have.Bytes, have.Inodes
	return l, nil
}

// unpack unpacks the layer into a directory of its own, which it removes again if it fails.
func (a *arrival) unpack(ctx context.Context, l record.Layer, below func() ([]record.Layer, error)) (record.Layer, error) {
	layers := a.engine.pool.layers
	dir, err := layers.New()
	if err != nil {
		return l, err
	}
	l.Dir = dir
	res, err := a.extract(ctx, layers.Path(dir), l)
	if err == nil {
		l.Bytes, l.Inodes = res.Bytes, res.Inodes
		err = a.settle(l, res.Implied, below)
	}
	if err != nil {
		return l, errors.Join(err, layers.Remove(dir))
	}
	return l, nil
}

func (a *arrival) extract(ctx context.Context, path string, l record.Layer) (unpack.Result, error) {
	if err := a.engine.unpack.Acquire(ctx, 1); err != nil {
		return unpack.Result{}, context.Cause(ctx)
	}
	defer a.engine.unpack.Release(1)
	blob, err := a.engine.pool.content.Open(l.Blob.Digest)
	if err != nil {
		return unpack.Result{}, err
	}
	defer blob.Close()
	res, err := unpack.Layer(ctx, path, blob, l.Diff)
	if errors.Is(err, imageservice.ErrCorrupt) {
		// It was verified when it arrived, or else by nobody since: do not offer it to the next pull.
		if err := a.engine.pool.content.Delete(l.Blob.Digest); err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.engine.log.Warn("cannot delete a corrupt blob", "digest", l.Blob.Digest, "err", err)
		}
	}
	return res, err
}

// settle gives implied directories their attributes, for which the layers below must be complete.
func (a *arrival) settle(l record.Layer, implied []string, below func() ([]record.Layer, error)) error {
	lower, err := below()
	if err != nil || len(implied) == 0 {
		return err
	}
	paths := make([]string, 0, len(lower))
	for i := len(lower) - 1; i >= 0; i-- {
		paths = append(paths, a.engine.pool.layers.Path(lower[i].Dir))
	}
	return unpack.Adopt(a.engine.pool.layers.Path(l.Dir), implied, paths)
}

// announce makes assembled images durable and enters them into the catalog, in this order.
func announce(e *Engine, records []*record.Image) error {
	records = slices.DeleteFunc(records, e.catalog.Known)
	if len(records) == 0 {
		return nil
	}
	if err := e.lock.sync(); err != nil {
		return err
	}
	for _, r := range records {
		if err := e.catalog.Put(r); err != nil {
			return err
		}
	}
	return nil
}
