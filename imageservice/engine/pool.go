package engine

import (
	"errors"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice/content"
	"github.com/skiff-node/skiff/imageservice/engine/catalog"
	"github.com/skiff-node/skiff/imageservice/record"
	"github.com/skiff-node/skiff/imageservice/snapshot"
)

// pool knows the blobs and layers that exist and who needs them: the catalog's records, prepared root file systems,
// and the leases of running pulls and imports. What nobody needs goes with the next sweep.
//
// A blob or layer is only ever deleted under mu, and held under mu before it is looked for: so what a lease has found
// stays.
type pool struct {
	content *content.Store
	layers  *snapshot.Layers
	trash   *snapshot.Trash

	mu     sync.Mutex
	blobs  map[digest.Digest]bool
	chains map[digest.Digest]record.Layer // by chain id: layers that images share
	strays map[string]bool                // layers of no image, kept for root file systems
	roots  map[string]snapshot.Root       // by key
	held   map[string]int                 // leases on blobs (digest) and layers ("layer/" + chain id)
}

// lease holds blobs and layers until release. Its methods are safe for concurrent use.
type lease struct {
	pool *pool
	keys []string // guarded by pool.mu
}

func layerKey(chain digest.Digest) string { return "layer/" + chain.String() }

func (p *pool) lease() *lease { return &lease{pool: p} }

func (l *lease) hold(key string) {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	l.add(key)
}

// add is hold with pool.mu already taken.
func (l *lease) add(key string) {
	l.keys = append(l.keys, key)
	l.pool.held[key]++
}

func (l *lease) release() {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	for _, key := range l.keys {
		if l.pool.held[key]--; l.pool.held[key] == 0 {
			delete(l.pool.held, key)
		}
	}
	l.keys = nil
}

// commit names a written blob and holds it.
func (l *lease) commit(w *content.Writer) (ocispec.Descriptor, error) {
	l.pool.mu.Lock()
	defer l.pool.mu.Unlock()
	desc, err := w.Commit()
	if err == nil {
		l.add(desc.Digest.String())
		l.pool.blobs[desc.Digest] = true
	}
	return desc, err
}

// shared returns the layer with that chain id, if it is there.
func (p *pool) shared(chain digest.Digest) (record.Layer, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, ok := p.chains[chain]
	return l, ok && p.layers.Has(l.Dir)
}

// share makes an unpacked layer available.
func (p *pool) share(l record.Layer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.chains[l.Chain] = l
}

// enter makes a root file system known, with its layer of mount points.
func (p *pool) enter(root snapshot.Root) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.roots[root.Key] = root
	if len(root.Layers) > 0 && snapshot.IsPoints(root.Layers[0]) {
		p.strays[root.Layers[0]] = true
	}
}

// sweep deletes each blob and layer that nobody needs. Space is free once the trash is emptied.
func (p *pool) sweep(c *catalog.Catalog) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	needBlob, needDir := map[digest.Digest]bool{}, map[string]bool{}
	for _, r := range c.Records() {
		for _, b := range r.Blobs() {
			needBlob[b.Digest] = true
		}
		for _, dir := range r.Dirs() {
			needDir[dir] = true
		}
	}
	for _, root := range p.roots {
		for _, dir := range root.Layers {
			needDir[dir] = true
		}
	}
	var errs []error
	for d := range p.blobs {
		if !needBlob[d] && p.held[d.String()] == 0 {
			errs = append(errs, p.content.Delete(d))
			delete(p.blobs, d)
		}
	}
	for chain, l := range p.chains {
		if !needDir[l.Dir] && p.held[layerKey(chain)] == 0 {
			errs = append(errs, p.layers.Remove(l.Dir))
			delete(p.chains, chain)
		}
	}
	for dir := range p.strays {
		if !needDir[dir] {
			errs = append(errs, p.layers.Remove(dir))
			delete(p.strays, dir)
		}
	}
	return errors.Join(errs...)
}

// orphaned reports whether there are layers of images that are gone. Those of mount points are no reason to sweep: the
// next container will want them again.
func (p *pool) orphaned(c *catalog.Catalog) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for dir := range p.strays {
		if !snapshot.IsPoints(dir) {
			return true
		}
	}
	need := map[string]bool{}
	for _, r := range c.Records() {
		for _, dir := range r.Dirs() {
			need[dir] = true
		}
	}
	for _, l := range p.chains {
		if !need[l.Dir] {
			return true
		}
	}
	return false
}
