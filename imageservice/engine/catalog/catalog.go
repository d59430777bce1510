// Package catalog is every image of the node, in memory and on disk, by all the names that mean it.
package catalog

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/record"
)

// Catalog is every image of the node, in memory and on disk. Reads never touch the disk. Records are immutable; a
// change replaces them.
type Catalog struct {
	store  *record.Store
	pinned []string

	change sync.Mutex // one change at a time, so that disk and memory agree
	mu     sync.RWMutex
	byID   map[digest.Digest]*record.Image
	names  map[string]digest.Digest // tags, repository digests and targets
	list   []imageservice.Image     // ordered by id
}

// New makes a catalog of the images whose records are in the store.
func New(store *record.Store, pinned []string, images []*record.Image) *Catalog {
	c := &Catalog{store: store, pinned: normalised(pinned), byID: map[digest.Digest]*record.Image{}}
	for _, r := range images {
		c.byID[r.ID] = r
	}
	c.index()
	return c
}

// index rebuilds what is derived from byID. Where a crash left one tag on two images the later one has it.
func (c *Catalog) index() {
	all := make([]*record.Image, 0, len(c.byID))
	for _, r := range c.byID {
		all = append(all, r)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Updated.Before(all[j].Updated) })
	names := map[string]digest.Digest{}
	for _, r := range all {
		for _, n := range slices.Concat(r.Tags, r.Digests) {
			names[n] = r.ID
		}
		for _, n := range r.Digests {
			_, target, _ := strings.Cut(n, "@")
			names[target] = r.ID
		}
		names[r.Manifest.Digest.String()] = r.ID
	}
	list := make([]imageservice.Image, 0, len(all))
	for _, r := range all {
		list = append(list, c.public(r, names))
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ID < list[j].ID })
	c.names, c.list = names, list
}

// public is the image as the contract shows it.
func (c *Catalog) public(r *record.Image, names map[string]digest.Digest) imageservice.Image {
	img := imageservice.Image{
		ID: r.ID.String(), Size: r.Size(), RepoDigests: slices.Clone(r.Digests), Config: r.Runtime, Annotations: r.Annotations,
	}
	if r.Artifact != nil {
		img.ArtifactType = r.Artifact.Type
	}
	for _, t := range r.Tags {
		if names[t] == r.ID {
			img.RepoTags = append(img.RepoTags, t)
		}
	}
	for _, n := range slices.Concat(img.RepoTags, img.RepoDigests) {
		img.Pinned = img.Pinned || slices.ContainsFunc(c.pinned, func(p string) bool { return pattern(p, n) })
	}
	return img
}

// Find returns the record that ref means.
func (c *Catalog) Find(ref string) (*record.Image, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if r, ok := c.byID[digest.Digest(ref)]; ok {
		return r, nil
	}
	if id, ok := c.names[ref]; ok {
		return c.byID[id], nil
	}
	n, nameErr := ParseName(ref)
	if nameErr == nil {
		if id, ok := c.names[n.Full]; ok {
			return c.byID[id], nil
		}
	}
	digits, ok := matchID(ref)
	if !ok && nameErr != nil {
		return nil, nameErr
	}
	if ok {
		return c.prefix(ref, digits)
	}
	return nil, fmt.Errorf("%s: %w", ref, imageservice.ErrNotFound)
}

// prefix finds the one image whose id begins with the digits.
func (c *Catalog) prefix(ref, digits string) (*record.Image, error) {
	var found *record.Image
	for id, r := range c.byID {
		if !strings.HasPrefix(id.Encoded(), digits) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("%w: %q is the beginning of several image ids", imageservice.ErrInvalidReference, ref)
		}
		found = r
	}
	if found == nil {
		return nil, fmt.Errorf("%s: %w", ref, imageservice.ErrNotFound)
	}
	return found, nil
}

// Get returns the image that ref means.
func (c *Catalog) Get(ref string) (imageservice.Image, error) {
	r, err := c.Find(ref)
	if err != nil {
		return imageservice.Image{}, err
	}
	return c.Image(r.ID)
}

// Image returns the image with that id.
func (c *Catalog) Image(id digest.Digest) (imageservice.Image, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	i, ok := slices.BinarySearchFunc(c.list, id.String(), func(img imageservice.Image, id string) int {
		return strings.Compare(img.ID, id)
	})
	if !ok {
		return imageservice.Image{}, fmt.Errorf("%s: %w", id, imageservice.ErrNotFound)
	}
	return clone(c.list[i]), nil
}

// All returns all images, ordered by id.
func (c *Catalog) All() []imageservice.Image {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]imageservice.Image, len(c.list))
	for i, img := range c.list {
		out[i] = clone(img)
	}
	return out
}

// clone keeps callers from writing into the catalog's slices. The configuration is shared and read-only.
func clone(img imageservice.Image) imageservice.Image {
	img.RepoTags, img.RepoDigests = slices.Clone(img.RepoTags), slices.Clone(img.RepoDigests)
	return img
}

// Records returns every record.
func (c *Catalog) Records() []*record.Image {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]*record.Image, 0, len(c.byID))
	for _, r := range c.byID {
		out = append(out, r)
	}
	return out
}

// Put adds an image, or the names of it to the image that is there, and takes its tags off every other.
func (c *Catalog) Put(r *record.Image) error {
	c.change.Lock()
	defer c.change.Unlock()
	changed := []*record.Image{}
	for _, old := range c.Records() {
		switch {
		case old.ID == r.ID:
			r = merge(old, r)
		case slices.ContainsFunc(old.Tags, func(t string) bool { return slices.Contains(r.Tags, t) }):
			without := *old
			without.Tags = slices.DeleteFunc(slices.Clone(old.Tags), func(t string) bool { return slices.Contains(r.Tags, t) })
			changed = append(changed, &without)
		}
	}
	// The new image first: should the machine stop between the two, the later record has the tag.
	for _, record := range append([]*record.Image{r}, changed...) {
		if err := c.store.Save(record); err != nil {
			return err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, record := range append(changed, r) {
		c.byID[record.ID] = record
	}
	c.index()
	return nil
}

// merge is the new record with the names of both.
func merge(old, r *record.Image) *record.Image {
	m := *r
	m.Tags = Union(old.Tags, r.Tags)
	m.Digests = Union(old.Digests, r.Digests)
	m.Origins = mergeOrigins(old.Origins, r.Origins)
	return &m
}

func sameOrigin(a, b record.Origin) bool { return reflect.DeepEqual(a, b) }

// maxOrigins bounds what is kept of the arrivals of one image.
const maxOrigins = 16

// mergeOrigins adds arrivals that are not known yet; the newest are kept.
func mergeOrigins(old, more []record.Origin) []record.Origin {
	all := slices.Clone(old)
	for _, o := range more {
		if !slices.ContainsFunc(all, func(k record.Origin) bool { return sameOrigin(k, o) }) {
			all = append(all, o)
		}
	}
	return all[max(0, len(all)-maxOrigins):]
}

// Union is the names of both, each once, in order.
func Union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// Drop removes an image with all its names.
func (c *Catalog) Drop(id digest.Digest) error {
	c.change.Lock()
	defer c.change.Unlock()
	if err := c.store.Delete(id); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.byID, id)
	c.index()
	return nil
}

// Known reports whether announcing the record would change nothing.
func (c *Catalog) Known(r *record.Image) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	old, ok := c.byID[r.ID]
	if !ok || old.Manifest.Digest != r.Manifest.Digest || !slices.Equal(old.Dirs(), r.Dirs()) || !slices.EqualFunc(mergeOrigins(old.Origins, r.Origins), old.Origins, sameOrigin) {
		return false
	}
	for _, n := range slices.Concat(r.Tags, r.Digests) {
		if c.names[n] != r.ID {
			return false
		}
	}
	return true
}

// Publish returns the images with those ids.
func (c *Catalog) Publish(ids []digest.Digest) ([]imageservice.Image, error) {
	out := make([]imageservice.Image, 0, len(ids))
	for _, id := range ids {
		img, err := c.Image(id)
		if err != nil {
			return nil, err
		}
		out = append(out, img)
	}
	return out, nil
}

// ForgetTorn deletes the records that did not make it into the catalog, unless they are of another version.
func (c *Catalog) ForgetTorn() error {
	records, _, err := c.store.Load()
	if err != nil {
		return err
	}
	var errs []error
	for _, r := range records {
		if _, err := c.Find(r.ID.String()); err != nil {
			errs = append(errs, c.store.Delete(r.ID))
		}
	}
	return errors.Join(errs...)
}

// Usage adds up blobs and unpacked layers, each once.
func (c *Catalog) Usage() imageservice.Usage {
	u := imageservice.Usage{Time: time.Now()}
	seen := map[string]bool{}
	once := func(key string, bytes, inodes int64) {
		if !seen[key] {
			seen[key] = true
			u.Bytes += bytes
			u.Inodes += inodes
		}
	}
	for _, r := range c.Records() {
		for _, b := range r.Blobs() {
			once(b.Digest.String(), b.Size, 1)
		}
		for _, l := range r.Layers {
			once(l.Dir, l.Bytes, l.Inodes)
		}
	}
	return u
}

// Pin changes what is pinned.
func (c *Catalog) Pin(patterns []string) {
	c.change.Lock()
	defer c.change.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pinned = normalised(patterns)
	c.index()
}
