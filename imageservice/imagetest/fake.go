package imagetest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"

	"github.com/skiff-node/skiff/imageservice"
)

// Fake is an imageservice.Service in memory, for tests of what stands on one. It passes the same suite as the real
// service, holds state and refuses wrong use. Root file systems are bind mounts of the directory Rootfs.
type Fake struct {
	// Rootfs is the directory that every root file system is a bind mount of. Set it before the first Prepare.
	Rootfs string

	mu       sync.Mutex
	registry map[string]remoteImage
	images   map[string]*fakeImage // by id
	roots    map[string]fakeRoot
}

type remoteImage struct {
	img Image
	err error
}

type fakeImage struct {
	built  Image
	public imageservice.Image
}

type fakeRoot struct {
	image    string
	readOnly bool
}

var _ imageservice.Service = (*Fake)(nil)

// NewFake returns an empty fake.
func NewFake() *Fake {
	return &Fake{registry: map[string]remoteImage{}, images: map[string]*fakeImage{}, roots: map[string]fakeRoot{}}
}

// Serve makes an image available to Pull under the reference.
func (f *Fake) Serve(ref string, img Image) { f.serve(ref, remoteImage{img: img}) }

// ServeError makes Pull of the reference fail with that error.
func (f *Fake) ServeError(ref string, err error) { f.serve(ref, remoteImage{err: err}) }

func (f *Fake) serve(ref string, r remoteImage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.registry[normal(ref)] = r
}

// Add puts an image with that configuration into the store and returns it.
func (f *Fake) Add(ref string, c imageservice.Config) (imageservice.Image, error) {
	img, err := Build(Spec{Names: []string{ref}, Config: c})
	if err != nil {
		return imageservice.Image{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.put(img, img.Names)
}

// normal is the full form of a reference, or "" if it is none.
func normal(ref string) string {
	named, err := reference.ParseDockerRef(ref)
	if err != nil {
		return ""
	}
	return named.String()
}

// put adds an image under names, which it takes from any other.
func (f *Fake) put(img Image, names []string) (imageservice.Image, error) {
	config, err := parseConfig(img)
	if err != nil {
		return imageservice.Image{}, err
	}
	id := img.ID.String()
	have := f.images[id]
	if have == nil {
		have = &fakeImage{public: imageservice.Image{ID: id, Size: img.size(), Config: config}}
		f.images[id] = have
	}
	have.built = img
	for _, n := range names {
		full := normal(n)
		if full == "" {
			return imageservice.Image{}, fmt.Errorf("%w: %q", imageservice.ErrInvalidReference, n)
		}
		if !strings.Contains(full, "@") {
			untag(f.images, full)
			have.public.RepoTags = insert(have.public.RepoTags, full)
		}
		repository, _ := reference.ParseDockerRef(n)
		have.public.RepoDigests = insert(have.public.RepoDigests, repository.Name()+"@"+img.Manifest.Digest.String())
	}
	return have.copy(), nil
}

// untag takes a tag off the image that has it.
func untag(images map[string]*fakeImage, name string) {
	for _, img := range images {
		img.public.RepoTags = slices.DeleteFunc(img.public.RepoTags, func(t string) bool { return t == name })
	}
}

func insert(list []string, s string) []string {
	list = append(list, s)
	slices.Sort(list)
	return slices.Compact(list)
}

func (i *fakeImage) copy() imageservice.Image {
	img := i.public
	img.RepoTags, img.RepoDigests = slices.Clone(img.RepoTags), slices.Clone(img.RepoDigests)
	return img
}

// Pull "fetches" an image that Serve announced.
func (f *Fake) Pull(ctx context.Context, r imageservice.PullRequest) (imageservice.Image, error) {
	if err := ctx.Err(); err != nil {
		return imageservice.Image{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	full := normal(r.Reference)
	if full == "" {
		return imageservice.Image{}, fmt.Errorf("%w: %q", imageservice.ErrInvalidReference, r.Reference)
	}
	served, ok := f.registry[full]
	switch {
	case !ok:
		return imageservice.Image{}, fmt.Errorf("pull %s: %w", full, imageservice.ErrNotFound)
	case served.err != nil:
		return imageservice.Image{}, fmt.Errorf("pull %s: %w", full, served.err)
	}
	if r.Progress != nil {
		r.Progress(imageservice.Progress{Digest: served.img.Manifest.Digest.String(), Stage: "done"})
	}
	return f.put(served.img, []string{full})
}

// find returns the image that ref means.
func (f *Fake) find(ref string) (*fakeImage, error) {
	if img, ok := f.images[ref]; ok {
		return img, nil
	}
	full := normal(ref)
	digits := strings.TrimPrefix(ref, "sha256:")
	short := len(digits) >= 12 && strings.Trim(digits, "0123456789abcdef") == ""
	if full == "" && !short {
		return nil, fmt.Errorf("%w: %q", imageservice.ErrInvalidReference, ref)
	}
	for id, img := range f.images {
		named := slices.Contains(img.public.RepoTags, full) || slices.Contains(img.public.RepoDigests, full)
		if named || img.built.Manifest.Digest.String() == ref || short && strings.HasPrefix(id, "sha256:"+digits) {
			return img, nil
		}
	}
	return nil, fmt.Errorf("%s: %w", ref, imageservice.ErrNotFound)
}

// Get finds an image.
func (f *Fake) Get(_ context.Context, ref string) (imageservice.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	img, err := f.find(ref)
	if err != nil {
		return imageservice.Image{}, err
	}
	return img.copy(), nil
}

// List returns every image, ordered by id.
func (f *Fake) List(context.Context) ([]imageservice.Image, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]imageservice.Image, 0, len(f.images))
	for _, img := range f.images {
		all = append(all, img.copy())
	}
	sort.Slice(all, func(i, j int) bool { return all[i].ID < all[j].ID })
	return all, nil
}

// Remove deletes every name of an image.
func (f *Fake) Remove(_ context.Context, ref string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	img, err := f.find(ref)
	if errors.Is(err, imageservice.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	delete(f.images, img.public.ID)
	return nil
}

// FSInfo reports the sum of the images' sizes and nothing for containers.
func (f *Fake) FSInfo(context.Context) (images, containers imageservice.FSInfo, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	images = imageservice.FSInfo{Mountpoint: "/", Used: imageservice.Usage{Time: time.Now()}}
	containers = images
	for _, img := range f.images {
		images.Used.Bytes += img.public.Size
		images.Used.Inodes++
	}
	return images, containers, nil
}

// Prepare makes a writable root file system: a bind mount of Rootfs. It makes no mount points.
func (f *Fake) Prepare(_ context.Context, key, imageID string, _ []imageservice.Point) ([]imageservice.Mount, error) {
	return f.mount(key, fakeRoot{image: imageID})
}

// View makes a read-only one.
func (f *Fake) View(_ context.Context, key, imageID string) ([]imageservice.Mount, error) {
	return f.mount(key, fakeRoot{image: imageID, readOnly: true})
}

func (f *Fake) mount(key string, want fakeRoot) ([]imageservice.Mount, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if key == "" || strings.ContainsAny(key, "/:,\\") || key == "." || key == ".." {
		return nil, fmt.Errorf("prepare root file system: key %q cannot name a directory", key)
	}
	if have, ok := f.roots[key]; ok {
		if have.readOnly != want.readOnly {
			return nil, fmt.Errorf("prepare root file system of %s: the key is in use for another kind", key)
		}
	} else if _, err := f.find(want.image); err != nil {
		return nil, err
	}
	f.roots[key] = want
	mode := "rw"
	if want.readOnly {
		mode = "ro"
	}
	return []imageservice.Mount{{Type: "bind", Source: f.Rootfs, Options: []string{"rbind", mode}}}, nil
}

// Release forgets a root file system.
func (f *Fake) Release(_ context.Context, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.roots, key)
	return nil
}

// Usage is a constant for every root file system that is there.
func (f *Fake) Usage(_ context.Context, key string) (imageservice.Usage, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.roots[key]; !ok {
		return imageservice.Usage{}, fmt.Errorf("root file system of %s: %w", key, imageservice.ErrNotFound)
	}
	return imageservice.Usage{Bytes: 4096, Inodes: 1, Time: time.Now()}, nil
}

// Retain releases every key that is not in live.
func (f *Fake) Retain(_ context.Context, live []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key := range f.roots {
		if !slices.Contains(live, key) {
			delete(f.roots, key)
		}
	}
	return nil
}

// Roots returns the keys of all root file systems, in order, for assertions.
func (f *Fake) Roots() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	keys := make([]string, 0, len(f.roots))
	for key := range f.roots {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Import reads an OCI or docker archive.
func (f *Fake) Import(_ context.Context, r io.Reader) ([]imageservice.Image, error) {
	images, err := ReadArchive(r)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, img := range images {
		if err := checkPlatform(img); err != nil {
			return nil, err
		}
	}
	var out []imageservice.Image
	for _, img := range images {
		public, err := f.put(img, img.Names)
		if err != nil {
			return nil, err
		}
		out = append(out, public)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].ID < out[j].ID })
	return out, nil
}

func checkPlatform(img Image) error {
	c, err := parseImage(img)
	if err != nil {
		return err
	}
	if c.OS != runtime.GOOS || c.Architecture != runtime.GOARCH {
		return fmt.Errorf("%w: this machine is %s/%s, the image has %s/%s", imageservice.ErrWrongPlatform, runtime.GOOS, runtime.GOARCH, c.OS, c.Architecture)
	}
	return nil
}

// Export writes an OCI archive.
func (f *Fake) Export(_ context.Context, w io.Writer, refs []string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(refs) == 0 {
		return fmt.Errorf("export images: %w: none is named", imageservice.ErrInvalidReference)
	}
	var images []Image
	for _, ref := range refs {
		img, err := f.find(ref)
		if err != nil {
			return fmt.Errorf("export images: %w", err)
		}
		built := img.built
		built.Names = slices.Clone(img.public.RepoTags)
		images = append(images, built)
	}
	b, err := OCIArchive(images...)
	if err != nil {
		return err
	}
	_, err = w.Write(b)
	return err
}
