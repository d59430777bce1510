package engine

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/engine/catalog"
	"github.com/skiff-node/skiff/imageservice/engine/trust"
	"github.com/skiff-node/skiff/imageservice/record"
	"github.com/skiff-node/skiff/imageservice/snapshot"
)

// rootfs makes and releases root file systems. The pool's table of them is what keeps their layers.
type rootfs struct {
	catalog *catalog.Catalog
	pool    *pool
	roots   *snapshot.Roots
	usage   *usageCache
	janitor *janitor
	guard   *trust.Guard
	log     *slog.Logger
	locks   [64]sync.Mutex // by hash of the key: work on one key does not overlap
}

func (f *rootfs) lock(key string) *sync.Mutex {
	h := fnv.New32a()
	h.Write([]byte(key))
	return &f.locks[h.Sum32()%uint32(len(f.locks))]
}

// Prepare makes a writable root file system on the image. See imageservice.RootFS.
func (e *Engine) Prepare(_ context.Context, key, imageID string, points []imageservice.Point) ([]imageservice.Mount, error) {
	return e.rootfs.prepare(snapshot.Root{Key: key, Image: imageID}, points)
}

// View makes a read-only one.
func (e *Engine) View(_ context.Context, key, imageID string) ([]imageservice.Mount, error) {
	return e.rootfs.prepare(snapshot.Root{Key: key, Image: imageID, ReadOnly: true}, nil)
}

// Release forgets the root file system of key and frees its space.
func (e *Engine) Release(_ context.Context, key string) error {
	if !snapshot.ValidKey(key) {
		return nil
	}
	if err := e.rootfs.forget(key); err != nil {
		return err
	}
	return e.janitor.sweepOrphans()
}

// Retain releases every key that is not in live.
func (e *Engine) Retain(_ context.Context, live []string) error {
	var errs []error
	for _, key := range e.rootfs.keys() {
		if !slices.Contains(live, key) {
			errs = append(errs, e.rootfs.forget(key))
		}
	}
	return errors.Join(append(errs, e.janitor.sweep())...)
}

// Usage is what the writable layer of key takes.
func (e *Engine) Usage(ctx context.Context, key string) (imageservice.Usage, error) {
	return e.rootfs.measure(ctx, key)
}

func (f *rootfs) prepare(want snapshot.Root, points []imageservice.Point) ([]imageservice.Mount, error) {
	if !snapshot.ValidKey(want.Key) {
		return nil, fmt.Errorf("prepare root file system: key %q cannot name a directory", want.Key)
	}
	mu := f.lock(want.Key)
	mu.Lock()
	defer mu.Unlock()
	root, fresh, err := f.claim(want)
	if err != nil {
		return nil, fmt.Errorf("prepare root file system of %s: %w", want.Key, err)
	}
	ready := f.roots.Renew
	if fresh {
		ready, root = f.roots.Make, f.lay(root, points)
	}
	if err := ready(root); err != nil {
		err = fmt.Errorf("prepare root file system of %s: %w", want.Key, classify(err))
		if fresh {
			err = errors.Join(err, f.drop(want.Key))
		}
		return nil, err
	}
	return f.roots.Mounts(root), nil
}

// claim enters the root file system into the pool, so that its layers stay, and says whether it is new. The image
// is looked up under the same lock that a sweep takes.
func (f *rootfs) claim(want snapshot.Root) (root snapshot.Root, fresh bool, err error) {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	if have, ok := f.pool.roots[want.Key]; ok && have.Image != "" {
		if have.ReadOnly != want.ReadOnly {
			return root, false, fmt.Errorf("the key is in use for one that is read-only: %t", have.ReadOnly)
		}
		return have, false, nil
	}
	r, err := f.catalog.Find(want.Image)
	if err != nil {
		return root, false, err
	}
	if missing := f.lost(r); missing != "" {
		return root, false, fmt.Errorf("image %s lost its layer %s; pull it again: %w", r.ID, missing, imageservice.ErrCorrupt)
	}
	if r.Artifact != nil && !want.ReadOnly {
		return root, false, fmt.Errorf("%s %w", r.ID, imageservice.ErrArtifact)
	}
	if err := f.guard.Admit(r); err != nil {
		return root, false, err
	}
	want.Image, want.Layers = r.ID.String(), r.Dirs()
	f.pool.roots[want.Key] = want
	return want, true, nil
}

// lay puts a layer of mount points below those of a new root file system. It is a help and no more: without one, the runtime
// makes what the image lacks.
func (f *rootfs) lay(root snapshot.Root, points []imageservice.Point) snapshot.Root {
	with, ok := f.roots.OnPoints(root, points)
	if !ok {
		return root
	}
	f.pool.enter(with) // before it is looked for, so that no sweep takes it
	if err := f.roots.MakePoints(with, points); err != nil {
		f.log.Warn("a container does without mount points made beforehand", "container", root.Key, "err", err)
		f.pool.enter(root)
		return root
	}
	return with
}

// lost names a layer of the image that is no longer on the disk; the image is then forgotten, so that the next pull
// brings it again.
func (f *rootfs) lost(r *record.Image) digest.Digest {
	for _, l := range r.Layers {
		if f.pool.layers.Has(l.Dir) {
			continue
		}
		if err := f.catalog.Drop(r.ID); err != nil {
			f.log.Warn("cannot forget a torn image", "image", r.ID, "err", err)
		}
		return l.Chain
	}
	return ""
}

// forget removes one root file system, whether it is known or not.
func (f *rootfs) forget(key string) error {
	mu := f.lock(key)
	mu.Lock()
	defer mu.Unlock()
	return f.drop(key)
}

// drop is forget with the key's lock taken.
func (f *rootfs) drop(key string) error {
	if err := f.roots.Remove(key); err != nil {
		return fmt.Errorf("release root file system of %s: %w", key, err)
	}
	f.pool.mu.Lock()
	delete(f.pool.roots, key)
	f.pool.mu.Unlock()
	f.usage.drop(key)
	f.janitor.wakeUp()
	return nil
}

// keys returns the keys of all root file systems, in order.
func (f *rootfs) keys() []string {
	f.pool.mu.Lock()
	defer f.pool.mu.Unlock()
	return slices.Sorted(maps.Keys(f.pool.roots))
}

func (f *rootfs) measure(ctx context.Context, key string) (imageservice.Usage, error) {
	f.pool.mu.Lock()
	_, ok := f.pool.roots[key]
	f.pool.mu.Unlock()
	if !ok {
		return imageservice.Usage{}, fmt.Errorf("root file system of %s: %w", key, imageservice.ErrNotFound)
	}
	return f.usage.get(key, func() (imageservice.Usage, error) {
		bytes, inodes, err := f.roots.Usage(ctx, key)
		return imageservice.Usage{Bytes: bytes, Inodes: inodes, Time: time.Now()}, err
	})
}
