// Package images removes images that nobody uses when the disk that holds them gets full, or when they are too old.
//
// What goes is a pure decision (Plan). An image is in use while any container, running or not, was made from it; pinned
// images always stay. The rest goes by when it was last used, the longest ago first, until the disk is back at the low
// threshold. An image younger than MinAge stays: it was probably pulled for a container that is about to be made.
package images

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Policy is when to collect.
type Policy struct {
	// High and Low are percentages of the disk in use: collection begins at High and ends at Low. High 100 turns it off.
	High, Low int
	// MinAge is how long an image is known before it may be removed. MaxAge is after how long without use it is removed
	// whatever the disk says; 0 turns that off.
	MinAge, MaxAge time.Duration
}

// Image is one image as the collector sees it.
type Image struct {
	ID     string
	Size   uint64
	Pinned bool
	InUse  bool
	// Detected is when the collector saw the image first, LastUsed when it was seen in use last (zero: never).
	Detected, LastUsed time.Time
}

// Disk is the file system of the images, in bytes.
type Disk struct{ Capacity, Available uint64 }

// Removal is an image to remove, and why: for space or for age.
type Removal struct{ ID, Reason string }

// Reasons to remove an image, as upstream's metrics name them.
const (
	ReasonSpace = "space"
	ReasonAge   = "age"
)

// Plan lists the images to remove, in order. missing is how many bytes will still be too few then.
func Plan(list []Image, disk Disk, p Policy, now time.Time) (remove []Removal, missing uint64) {
	var candidates []Image
	for _, i := range list {
		if i.Pinned || i.InUse || now.Sub(i.Detected) < p.MinAge {
			continue
		}
		candidates = append(candidates, i)
	}
	slices.SortFunc(candidates, func(a, b Image) int {
		return cmp.Or(a.LastUsed.Compare(b.LastUsed), a.Detected.Compare(b.Detected), cmp.Compare(a.ID, b.ID))
	})
	free := toFree(disk, p)
	for _, i := range candidates {
		idle := now.Sub(i.Detected)
		if !i.LastUsed.IsZero() {
			idle = now.Sub(i.LastUsed)
		}
		old := p.MaxAge > 0 && idle > p.MaxAge
		if free == 0 && !old {
			continue
		}
		reason := ReasonSpace
		if old {
			reason = ReasonAge
		}
		remove = append(remove, Removal{i.ID, reason})
		free -= min(free, i.Size)
	}
	return remove, free
}

// toFree is how many bytes collection should free now.
func toFree(d Disk, p Policy) uint64 {
	if d.Capacity == 0 || p.High >= 100 {
		return 0
	}
	used := 100 - int(d.Available*100/d.Capacity)
	want := d.Capacity * uint64(100-p.Low) / 100
	if used < p.High || want <= d.Available {
		return 0
	}
	return want - d.Available
}

// Config is what a Collector needs.
type Config struct {
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	Policy  Policy
	// Period is how often to look; 0 means 5 min.
	Period time.Duration
	// Event records an event about the node. May be nil.
	Event func(eventType, reason, message string)
	// Removed is told of each image that was removed, and why: space or age. May be nil.
	Removed func(reason string)
	// Listed is told the ids of all images, before any is removed, and when they were asked for. May be nil.
	Listed func(ids []string, asked time.Time)
	// Trace begins a span of a collection, which ends with what it failed at. May be nil.
	Trace func(ctx context.Context, name string) (context.Context, func(error))
	// Log may be nil.
	Log *slog.Logger
}

// Collector remembers since when it knows images, and removes them.
type Collector struct {
	cfg   Config
	mu    sync.Mutex
	known map[string]Image
}

// New checks the configuration.
func New(cfg Config) (*Collector, error) {
	p := cfg.Policy
	switch {
	case cfg.Runtime == nil || cfg.Images == nil:
		return nil, errors.New("images: Runtime and Images are required")
	case p.High < 0 || p.High > 100 || p.Low < 0 || p.Low > p.High:
		return nil, fmt.Errorf("imageGCHighThresholdPercent %d and imageGCLowThresholdPercent %d must be 0 ≤ low ≤ high ≤ 100", p.High, p.Low)
	}
	if cfg.Period == 0 {
		cfg.Period = 5 * time.Minute
	}
	if cfg.Event == nil {
		cfg.Event = func(string, string, string) {}
	}
	if cfg.Listed == nil {
		cfg.Listed = func([]string, time.Time) {}
	}
	if cfg.Trace == nil {
		cfg.Trace = func(ctx context.Context, _ string) (context.Context, func(error)) { return ctx, func(error) {} }
	}
	if cfg.Removed == nil {
		cfg.Removed = func(string) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Collector{cfg: cfg, known: map[string]Image{}}, nil
}

// Run collects every period until ctx ends. The first look, at once, only learns which images there are.
func (c *Collector) Run(ctx context.Context) error {
	beat := time.NewTicker(c.cfg.Period)
	defer beat.Stop()
	if _, err := c.look(ctx); err != nil {
		c.cfg.Log.Debug("images could not be listed", "err", err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
		}
		if err := c.Collect(ctx); err != nil && ctx.Err() == nil {
			c.cfg.Log.Warn("image garbage collection failed", "err", err)
			c.cfg.Event(v1.EventTypeWarning, "ImageGCFailed", err.Error())
		}
	}
}

// Collect removes what the policy says.
func (c *Collector) Collect(ctx context.Context) (err error) {
	ctx, end := c.cfg.Trace(ctx, "Images/GarbageCollect")
	defer func() { end(err) }()
	list, err := c.look(ctx)
	if err != nil {
		return err
	}
	disk, err := c.disk(ctx)
	if err != nil {
		return err
	}
	unused, missing := Plan(list, disk, c.cfg.Policy, time.Now())
	_, err = c.remove(ctx, unused)
	if missing > 0 {
		err = errors.Join(err, fmt.Errorf("the disk of images is too full: %d more bytes should be freed, but every other image is in use", missing))
	}
	return err
}

// Free removes every image that is not in use, when the node is short of disk. It returns how many bytes that freed, by
// the images' sizes.
func (c *Collector) Free(ctx context.Context) (uint64, error) {
	list, err := c.look(ctx)
	if err != nil {
		return 0, err
	}
	unused, _ := Plan(list, Disk{Capacity: math.MaxUint64 / 100}, Policy{}, time.Now())
	return c.remove(ctx, unused)
}

// look brings what is known of the images up to date.
func (c *Collector) look(ctx context.Context) ([]Image, error) {
	asked := time.Now()
	images, err := c.cfg.Images.ListImages(ctx, &runtimeapi.ListImagesRequest{})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	ids := make([]string, 0, len(images.Images))
	for _, img := range images.Images {
		ids = append(ids, img.Id)
	}
	c.cfg.Listed(ids, asked)
	containers, err := c.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, ct := range containers.Containers {
		for _, name := range []string{ct.ImageRef, ct.ImageId, ct.GetImage().GetImage()} {
			used[name] = name != ""
		}
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	seen := map[string]Image{}
	var out []Image
	for _, img := range images.Images {
		i, ok := c.known[img.Id]
		if !ok {
			i = Image{ID: img.Id, Detected: now}
		}
		i.Size, i.Pinned, i.InUse = img.Size, img.Pinned, usedBy(used, img)
		if i.InUse {
			i.LastUsed = now
		}
		seen[i.ID] = i
		out = append(out, i)
	}
	c.known = seen
	return out, nil
}

// usedBy reports whether a container names the image by its id, a tag or a digest.
func usedBy(used map[string]bool, img *runtimeapi.Image) bool {
	for _, name := range slices.Concat([]string{img.Id}, img.RepoTags, img.RepoDigests) {
		if used[name] {
			return true
		}
	}
	return false
}

func (c *Collector) disk(ctx context.Context) (Disk, error) {
	info, err := c.cfg.Images.ImageFsInfo(ctx, &runtimeapi.ImageFsInfoRequest{})
	if err != nil {
		return Disk{}, fmt.Errorf("ask the runtime for its image file system: %w", err)
	}
	if len(info.ImageFilesystems) == 0 {
		return Disk{}, errors.New("the runtime names no image file system")
	}
	mount := info.ImageFilesystems[0].GetFsId().GetMountpoint()
	var st unix.Statfs_t
	if err := unix.Statfs(mount, &st); err != nil {
		return Disk{}, fmt.Errorf("size of the image file system at %s: %w", mount, err)
	}
	return Disk{Capacity: st.Blocks * uint64(st.Bsize), Available: st.Bavail * uint64(st.Bsize)}, nil
}

func (c *Collector) remove(ctx context.Context, unused []Removal) (freed uint64, err error) {
	var failed []error
	for _, r := range unused {
		id := r.ID
		_, err := c.cfg.Images.RemoveImage(ctx, &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: id}})
		if err != nil {
			failed = append(failed, fmt.Errorf("remove image %s: %w", id, err))
			continue
		}
		c.mu.Lock()
		freed += c.known[id].Size
		delete(c.known, id)
		c.mu.Unlock()
		c.cfg.Removed(r.Reason)
		c.cfg.Log.Info("removed an unused image", "image", id, "for", r.Reason)
	}
	return freed, errors.Join(failed...)
}
