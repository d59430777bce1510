package engine

import (
	"fmt"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/record"
)

// catalog is every image of the node, in memory and on disk. Reads never touch the disk. Records are immutable; a
// change replaces them.
type catalog struct {
	store  *record.Store
	pinned []string

	change sync.Mutex // one change at a time, so that disk and memory agree
	mu     sync.RWMutex
	byID   map[digest.Digest]*record.Image
	names  map[string]digest.Digest // tags, repository digests and targets
	list   []imageservice.Image     // ordered by id
}

func newCatalog(store *record.Store, pinned []string, images []*record.Image) *catalog {
	c := &catalog{store: store, pinned: pinned, byID: map[digest.Digest]*record.Image{}}
	for _, r := range images {
		c.byID[r.ID] = r
	}
	c.index()
	return c
}

// index rebuilds what is derived from byID. Where a crash left one tag on two images the later one has it.
func (c *catalog) index() {
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
func (c *catalog) public(r *record.Image, names map[string]digest.Digest) imageservice.Image {
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

// find returns the record that ref means.
func (c *catalog) find(ref string) (*record.Image, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if r, ok := c.byID[digest.Digest(ref)]; ok {
		return r, nil
	}
	if id, ok := c.names[ref]; ok {
		return c.byID[id], nil
	}
	n, nameErr := parseName(ref)
	if nameErr == nil {
		if id, ok := c.names[n.full]; ok {
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
func (c *catalog) prefix(ref, digits string) (*record.Image, error) {
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

// get returns the image that ref means.
func (c *catalog) get(ref string) (imageservice.Image, error) {
	r, err := c.find(ref)
	if err != nil {
		return imageservice.Image{}, err
	}
	return c.image(r.ID)
}

func (c *catalog) image(id digest.Digest) (imageservice.Image, error) {
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

// images returns all images, ordered by id.
func (c *catalog) images() []imageservice.Image {
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

// records returns every record.
func (c *catalog) records() []*record.Image {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := make([]*record.Image, 0, len(c.byID))
	for _, r := range c.byID {
		out = append(out, r)
	}
	return out
}

// put adds an image, or the names of it to the image that is there, and takes its tags off every other.
func (c *catalog) put(r *record.Image) error {
	c.change.Lock()
	defer c.change.Unlock()
	changed := []*record.Image{}
	for _, old := range c.records() {
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
	m.Tags = union(old.Tags, r.Tags)
	m.Digests = union(old.Digests, r.Digests)
	m.Origins = mergeOrigins(old.Origins, r.Origins)
	return &m
}

// maxOrigins bounds what is kept of the arrivals of one image.
const maxOrigins = 16

// mergeOrigins adds arrivals that are not known yet; the newest are kept.
func mergeOrigins(old, more []record.Origin) []record.Origin {
	all := slices.Clone(old)
	for _, o := range more {
		if !slices.ContainsFunc(all, func(k record.Origin) bool { return reflect.DeepEqual(k, o) }) {
			all = append(all, o)
		}
	}
	return all[max(0, len(all)-maxOrigins):]
}

func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// drop removes an image with all its names.
func (c *catalog) drop(id digest.Digest) error {
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
