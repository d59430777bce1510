package imagetest

import (
	"archive/tar"
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"sort"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// ReadArchive reads the images of an archive of one platform, as OCIArchive or DockerArchive write it, gzipped or not.
func ReadArchive(r io.Reader) ([]Image, error) {
	files, err := readTar(r)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w: %w", err, imageservice.ErrCorrupt)
	}
	blobs := map[digest.Digest][]byte{}
	for name, b := range files {
		d := digest.FromBytes(b)
		if rest, ok := strings.CutPrefix(name, "blobs/sha256/"); ok && rest != d.Encoded() {
			return nil, fmt.Errorf("blob %s has digest %s: %w", name, d, imageservice.ErrCorrupt)
		}
		blobs[d] = b
	}
	switch {
	case files["index.json"] != nil:
		return readOCI(files["index.json"], blobs)
	case files["manifest.json"] != nil:
		return readDocker(files, blobs)
	}
	return nil, fmt.Errorf("not an image archive: %w", imageservice.ErrCorrupt)
}

func readTar(r io.Reader) (map[string][]byte, error) {
	br := bufio.NewReader(r)
	r = br
	if magic, _ := br.Peek(2); string(magic) == "\x1f\x8b" {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, err
		}
		r = z
	}
	files := map[string][]byte{}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(tr); err != nil {
			return nil, err
		}
	}
}

func readOCI(doc []byte, blobs map[digest.Digest][]byte) ([]Image, error) {
	var index ocispec.Index
	if err := json.Unmarshal(doc, &index); err != nil {
		return nil, fmt.Errorf("read index.json: %w: %w", err, imageservice.ErrCorrupt)
	}
	at := map[digest.Digest]int{}
	var images []Image
	for _, m := range index.Manifests {
		name := m.Annotations["io.containerd.image.name"]
		m.Annotations = nil
		i, ok := at[m.Digest]
		if !ok {
			img, err := collect(m, blobs)
			if err != nil {
				return nil, err
			}
			i = len(images)
			at[m.Digest] = i
			images = append(images, img)
		}
		if name != "" {
			images[i].Names = append(images[i].Names, name)
		}
	}
	return images, nil
}

// collect gathers the blobs of one manifest.
func collect(m ocispec.Descriptor, blobs map[digest.Digest][]byte) (Image, error) {
	img := Image{Manifest: m, Blobs: map[digest.Digest][]byte{}}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(blobs[m.Digest], &manifest); err != nil {
		return img, fmt.Errorf("read manifest %s: %w: %w", m.Digest, err, imageservice.ErrCorrupt)
	}
	img.Config, img.ID, img.Layers = manifest.Config, manifest.Config.Digest, manifest.Layers
	for _, d := range append([]ocispec.Descriptor{m, img.Config}, img.Layers...) {
		b, ok := blobs[d.Digest]
		if !ok {
			return img, fmt.Errorf("the archive lacks blob %s: %w", d.Digest, imageservice.ErrCorrupt)
		}
		img.Blobs[d.Digest] = b
	}
	c, err := parseImage(img)
	img.DiffIDs = c.RootFS.DiffIDs
	return img, err
}

func readDocker(files map[string][]byte, blobs map[digest.Digest][]byte) ([]Image, error) {
	var list []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"], &list); err != nil {
		return nil, fmt.Errorf("read manifest.json: %w: %w", err, imageservice.ErrCorrupt)
	}
	types := mediaTypes(Spec{Docker: true})
	var images []Image
	for _, e := range list {
		all := Image{Blobs: blobs}
		m := ocispec.Manifest{MediaType: types.manifest, Config: all.add(types.config, files[e.Config])}
		m.SchemaVersion = 2
		for _, l := range e.Layers {
			m.Layers = append(m.Layers, all.add(types.layer, files[l]))
		}
		doc, err := json.Marshal(m)
		if err != nil {
			return nil, err
		}
		img, err := collect(all.add(types.manifest, doc), blobs)
		if err != nil {
			return nil, err
		}
		img.Names = e.RepoTags
		images = append(images, img)
	}
	return images, nil
}

func parseImage(img Image) (ocispec.Image, error) {
	var c ocispec.Image
	if err := json.Unmarshal(img.Blobs[img.Config.Digest], &c); err != nil {
		return c, fmt.Errorf("read image configuration: %w: %w", err, imageservice.ErrCorrupt)
	}
	return c, nil
}

func parseConfig(img Image) (imageservice.Config, error) {
	image, err := parseImage(img)
	c := image.Config
	out := imageservice.Config{
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir,
		Labels: c.Labels, StopSignal: c.StopSignal,
	}
	for v := range c.Volumes {
		out.Volumes = append(out.Volumes, v)
	}
	sort.Strings(out.Volumes)
	return out, err
}

func (img Image) size() int64 {
	size := img.Manifest.Size + img.Config.Size
	for _, l := range img.Layers {
		size += l.Size
	}
	return size
}
