// Package archive reads and writes images as tar archives, in the two layouts of the field: the OCI image layout
// (image specification 1.1, image-layout.md) and what "docker save" writes (manifest.json). Archives of current
// docker versions are both; the OCI side is then believed for content and manifest.json for names.
package archive

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// Blobs is where the content of an archive goes. Put stores and verifies one blob; empty fields of want are not
// known yet. Read returns a small one.
type Blobs interface {
	Put(r io.Reader, want ocispec.Descriptor) (ocispec.Descriptor, error)
	Read(d digest.Digest, limit int64) ([]byte, error)
}

// Entry is one image of an archive: its index or manifest and the names it is to have, as the archive spells them.
type Entry struct {
	Target ocispec.Descriptor
	Names  []string
	Docker bool // the archive is none of OCI's
}

const documentLimit = 16 << 20

// reader collects an archive. What a file means is known only at the end: the order of files is free.
type reader struct {
	blobs   Blobs
	files   map[string]ocispec.Descriptor // by name in the archive
	links   map[string]string             // symbolic links of old docker archives
	gzipped map[string]bool
	layout  []byte
	index   []byte
	docker  []dockerImage
	hasDock bool
}

// dockerImage is one element of manifest.json.
type dockerImage struct {
	Config   string
	RepoTags []string
	Layers   []string
}

// Read stores the blobs of a plain (not compressed) tar archive and returns its images.
func Read(ctx context.Context, stream io.Reader, blobs Blobs) ([]Entry, error) {
	r := &reader{blobs: blobs, files: map[string]ocispec.Descriptor{}, links: map[string]string{}, gzipped: map[string]bool{}}
	tr := tar.NewReader(stream)
	for {
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, broken("read archive", err)
		}
		if err := r.file(h, tr); err != nil {
			return nil, broken(fmt.Sprintf("read %q from archive", h.Name), err)
		}
	}
	switch {
	case r.layout != nil && r.index != nil:
		return r.oci()
	case r.hasDock:
		return r.fromDocker()
	}
	return nil, fmt.Errorf("not an image archive, it has neither oci-layout and index.json nor manifest.json: %w", imageservice.ErrCorrupt)
}

// broken marks damage of the stream itself as corruption.
func broken(doing string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
		return fmt.Errorf("%s: %w: %w", doing, err, imageservice.ErrCorrupt)
	}
	return fmt.Errorf("%s: %w", doing, err)
}

func (r *reader) file(h *tar.Header, body io.Reader) error {
	name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
	if h.Typeflag == tar.TypeSymlink {
		r.links[name] = path.Join(path.Dir(name), h.Linkname)
		return nil
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	var err error
	switch name {
	case ocispec.ImageLayoutFile:
		r.layout, err = document(body)
	case ocispec.ImageIndexFile:
		r.index, err = document(body)
	case "manifest.json":
		var doc []byte
		if doc, err = document(body); err == nil {
			r.hasDock = true
			err = parse(doc, &r.docker)
		}
	default:
		buffered := bufio.NewReader(body)
		magic, _ := buffered.Peek(2) // an error comes back with the next read
		r.gzipped[name] = bytes.Equal(magic, []byte{0x1f, 0x8b})
		r.files[name], err = r.blobs.Put(buffered, expected(name, h.Size))
	}
	return err
}

// expected is what the name of a file says about its content: blobs/sha256/<hex> in OCI layouts.
func expected(name string, size int64) ocispec.Descriptor {
	want := ocispec.Descriptor{Size: size}
	parts := strings.Split(name, "/")
	if len(parts) == 3 && parts[0] == ocispec.ImageBlobsDir {
		if d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[2]); d.Validate() == nil {
			want.Digest = d
		}
	}
	return want
}

func document(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, documentLimit+1))
	if err == nil && len(b) > documentLimit {
		err = fmt.Errorf("larger than %d bytes: %w", documentLimit, imageservice.ErrCorrupt)
	}
	return b, err
}

func parse(doc []byte, into any) error {
	if err := json.Unmarshal(doc, into); err != nil {
		return fmt.Errorf("%w: %w", err, imageservice.ErrCorrupt)
	}
	return nil
}

// oci interprets the archive as an OCI image layout.
func (r *reader) oci() ([]Entry, error) {
	var layout ocispec.ImageLayout
	if err := parse(r.layout, &layout); err != nil {
		return nil, fmt.Errorf("read oci-layout: %w", err)
	}
	if layout.Version != ocispec.ImageLayoutVersion {
		return nil, fmt.Errorf("oci-layout has version %q, %s is known: %w", layout.Version, ocispec.ImageLayoutVersion, imageservice.ErrCorrupt)
	}
	var index ocispec.Index
	if err := parse(r.index, &index); err != nil {
		return nil, fmt.Errorf("read index.json: %w", err)
	}
	tags := r.dockerTags()
	var entries []Entry
	at := map[digest.Digest]int{}
	for _, m := range index.Manifests {
		i, ok := at[m.Digest]
		if !ok {
			i = len(entries)
			at[m.Digest] = i
			entries = append(entries, Entry{Target: m})
		}
		names := ociNames(m)
		if len(names) == 0 {
			names = tags[r.configOf(m)]
		}
		entries[i].Names = append(entries[i].Names, names...)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("index.json lists no image: %w", imageservice.ErrCorrupt)
	}
	return entries, nil
}

// ociNames is the full name in a descriptor's annotations. The OCI annotation often is a mere tag, which names nothing.
func ociNames(m ocispec.Descriptor) []string {
	if name := m.Annotations[images.AnnotationImageName]; name != "" {
		return []string{name}
	}
	if name := m.Annotations[ocispec.AnnotationRefName]; strings.ContainsAny(name, "/:") {
		return []string{name}
	}
	return nil
}

// dockerTags maps the digest of each configuration in manifest.json to its names.
func (r *reader) dockerTags() map[digest.Digest][]string {
	tags := map[digest.Digest][]string{}
	for _, m := range r.docker {
		d := r.files[path.Clean(m.Config)].Digest
		tags[d] = append(tags[d], m.RepoTags...)
	}
	return tags
}

// configOf is the digest of the configuration of a manifest, empty when it cannot be told.
func (r *reader) configOf(m ocispec.Descriptor) digest.Digest {
	doc, err := r.blobs.Read(m.Digest, documentLimit)
	if err != nil {
		return ""
	}
	var manifest ocispec.Manifest
	if json.Unmarshal(doc, &manifest) != nil {
		return ""
	}
	return manifest.Config.Digest
}

// fromDocker interprets the archive as the output of docker save and writes the manifests that it lacks.
func (r *reader) fromDocker() ([]Entry, error) {
	var entries []Entry
	for _, m := range r.docker {
		manifest := struct {
			SchemaVersion int                  `json:"schemaVersion"`
			MediaType     string               `json:"mediaType"`
			Config        ocispec.Descriptor   `json:"config"`
			Layers        []ocispec.Descriptor `json:"layers"`
		}{SchemaVersion: 2, MediaType: images.MediaTypeDockerSchema2Manifest}
		var err error
		if manifest.Config, err = r.member(m.Config); err != nil {
			return nil, err
		}
		manifest.Config.MediaType = images.MediaTypeDockerSchema2Config
		for _, l := range m.Layers {
			layer, err := r.member(l)
			if err != nil {
				return nil, err
			}
			manifest.Layers = append(manifest.Layers, layer)
		}
		doc, err := json.Marshal(manifest)
		if err != nil {
			return nil, err
		}
		want := ocispec.Descriptor{MediaType: manifest.MediaType, Digest: digest.FromBytes(doc), Size: int64(len(doc))}
		target, err := r.blobs.Put(bytes.NewReader(doc), want)
		if err != nil {
			return nil, err
		}
		entries = append(entries, Entry{Target: target, Names: m.RepoTags, Docker: true})
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("manifest.json lists no image: %w", imageservice.ErrCorrupt)
	}
	return entries, nil
}

// member finds a file that manifest.json names, following one link, and types it as a layer.
func (r *reader) member(name string) (ocispec.Descriptor, error) {
	name = path.Clean(name)
	if to, ok := r.links[name]; ok {
		name = to
	}
	d, ok := r.files[name]
	if !ok {
		return d, fmt.Errorf("archive lacks %q, which manifest.json names: %w", name, imageservice.ErrCorrupt)
	}
	d.MediaType = images.MediaTypeDockerSchema2Layer
	if r.gzipped[name] {
		d.MediaType = images.MediaTypeDockerSchema2LayerGzip
	}
	return d, nil
}
