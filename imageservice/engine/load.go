package engine

import (
	"errors"
	"fmt"
	"log/slog"

	"github.com/opencontainers/go-digest"

	"github.com/skiff-node/skiff/imageservice/content"
	"github.com/skiff-node/skiff/imageservice/engine/catalog"
	"github.com/skiff-node/skiff/imageservice/record"
	"github.com/skiff-node/skiff/imageservice/snapshot"
)

// load opens the stores below the root and makes memory agree with the disk. A record is written after everything it
// names was synced, so what a record names is whole unless the disk lost it, and what none names is a leftover.
func (e *Engine) load() error {
	trash, err := snapshot.OpenTrash(e.cfg.Root)
	if err != nil {
		return err
	}
	p := &pool{
		trash: trash, blobs: map[digest.Digest]bool{}, chains: map[digest.Digest]record.Layer{},
		strays: map[string]bool{}, roots: map[string]snapshot.Root{}, held: map[string]int{},
	}
	if p.content, err = content.Open(e.cfg.Root); err != nil {
		return err
	}
	if p.layers, err = snapshot.OpenLayers(e.cfg.Root, trash); err != nil {
		return err
	}
	roots, err := snapshot.OpenRoots(e.cfg.Root, p.layers, trash)
	if err != nil {
		return err
	}
	records, err := record.Open(e.cfg.Root)
	if err != nil {
		return err
	}
	images, warnings, err := records.Load()
	if err != nil {
		return err
	}
	for _, w := range warnings {
		e.log.Warn("skipping an image that cannot be read; pull it again", "err", w)
	}
	e.pool = p
	e.catalog = catalog.New(records, e.cfg.Pinned, whole(p, images, e.log))
	prepared, err := roots.Load()
	if err != nil {
		return err
	}
	for _, r := range prepared {
		p.roots[r.Key] = r
	}
	e.janitor = &janitor{catalog: e.catalog, pool: p, log: e.log, wake: make(chan struct{}, 1)}
	e.rootfs = &rootfs{
		catalog: e.catalog, pool: p, roots: roots, usage: newUsageCache(e.cfg.UsageAge), janitor: e.janitor, guard: e.guard, log: e.log,
	}
	return errors.Join(e.catalog.ForgetTorn(), p.adopt(e.catalog))
}

// whole returns the images of which nothing is missing.
func whole(p *pool, images []*record.Image, log *slog.Logger) []*record.Image {
	var sound []*record.Image
	for _, r := range images {
		if what := p.missing(r); what != "" {
			log.Warn("forgetting a torn image; pull it again", "image", r.ID, "tags", r.Tags, "missing", what)
			continue
		}
		sound = append(sound, r)
	}
	return sound
}

// missing names a part of the image that is not there or cut short, or is empty.
func (p *pool) missing(r *record.Image) string {
	for _, b := range r.Blobs() {
		if !p.content.Has(b.Digest, b.Size) {
			return "blob " + b.Digest.String()
		}
	}
	for _, l := range r.Layers {
		if !p.layers.Has(l.Dir) {
			return "layer " + l.Chain.String()
		}
	}
	return ""
}

// adopt enters what is on the disk into the pool and sweeps what is not needed.
func (p *pool) adopt(c *catalog.Catalog) error {
	known := map[string]bool{}
	for _, r := range c.Records() {
		for _, l := range r.Layers {
			p.chains[l.Chain] = l
			known[l.Dir] = true
		}
	}
	dirs, err := p.layers.List()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		if !known[dir] {
			p.strays[dir] = true
		}
	}
	blobs, err := p.content.List()
	if err != nil {
		return err
	}
	for _, d := range blobs {
		p.blobs[d] = true
	}
	if err := p.sweep(c); err != nil {
		return fmt.Errorf("clean image store: %w", err)
	}
	return nil
}
