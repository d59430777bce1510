// Package imagetest helps testing with images: it builds small images and archives of them, holds the suite that
// every implementation of imageservice.Service must pass, and a stateful in-memory fake of the service.
package imagetest

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"runtime"
	"sort"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// File is one entry of a layer. The zero Type is a regular file, or a directory where Name ends in "/".
type File struct {
	Name, Body, Link string
	Mode             int64 // default 0644, directories 0755
	Type             byte
	UID, GID         int
	Xattrs           map[string]string
}

// Spec describes an image to build.
type Spec struct {
	Names       []string // references, as an archive holds them
	Layers      [][]File // lowest first
	Config      imageservice.Config
	Platform    ocispec.Platform // default: this machine
	Compression string           // "gzip" (default), "zstd" or "none"
	Docker      bool             // docker schema 2 media types
}

// Image is a built image: its documents and blobs.
type Image struct {
	Names    []string
	ID       digest.Digest // of the configuration
	Manifest ocispec.Descriptor
	Config   ocispec.Descriptor
	Layers   []ocispec.Descriptor
	DiffIDs  []digest.Digest
	Blobs    map[digest.Digest][]byte
}

// Build builds an image. The same specification gives the same bytes.
func Build(s Spec) (Image, error) {
	img := Image{Names: s.Names, Blobs: map[digest.Digest][]byte{}}
	types := mediaTypes(s)
	for _, files := range s.Layers {
		plain, err := Tar(files)
		if err != nil {
			return img, err
		}
		packed, err := compress(s.Compression, plain)
		if err != nil {
			return img, err
		}
		img.DiffIDs = append(img.DiffIDs, digest.FromBytes(plain))
		img.Layers = append(img.Layers, img.add(types.layer, packed))
	}
	config, err := json.Marshal(ocispec.Image{
		Platform: platform(s.Platform),
		Config:   imageConfig(s.Config),
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: img.DiffIDs},
	})
	if err != nil {
		return img, err
	}
	img.Config = img.add(types.config, config)
	img.ID = img.Config.Digest
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: types.manifest,
		Config: img.Config, Layers: append([]ocispec.Descriptor{}, img.Layers...),
	})
	if err != nil {
		return img, err
	}
	img.Manifest = img.add(types.manifest, manifest)
	return img, nil
}

// BuildArtifact builds an OCI artifact with a blob for each file. A file without name has no title.
func BuildArtifact(artifactType string, files ...File) (Image, error) {
	img := Image{Blobs: map[digest.Digest][]byte{}}
	img.Config = img.add("application/vnd.oci.empty.v1+json", []byte("{}"))
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType,
		Config: img.Config, Layers: []ocispec.Descriptor{}, Annotations: map[string]string{"org.opencontainers.image.created": "now"},
	}
	for _, f := range files {
		d := img.add("application/octet-stream", []byte(f.Body))
		if f.Name != "" {
			d.Annotations = map[string]string{ocispec.AnnotationTitle: f.Name}
		}
		m.Layers = append(m.Layers, d)
	}
	doc, err := json.Marshal(m)
	if err != nil {
		return img, err
	}
	img.Layers, img.Manifest = m.Layers, img.add(m.MediaType, doc)
	img.ID = img.Manifest.Digest
	return img, nil
}

func (img *Image) add(mediaType string, b []byte) ocispec.Descriptor {
	d := digest.FromBytes(b)
	img.Blobs[d] = b
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))}
}

type documentTypes struct{ manifest, config, layer string }

func mediaTypes(s Spec) documentTypes {
	if s.Docker {
		return documentTypes{
			"application/vnd.docker.distribution.manifest.v2+json",
			"application/vnd.docker.container.image.v1+json",
			"application/vnd.docker.image.rootfs.diff.tar.gzip",
		}
	}
	layer := map[string]string{"zstd": ocispec.MediaTypeImageLayerZstd, "none": ocispec.MediaTypeImageLayer}[s.Compression]
	if layer == "" {
		layer = ocispec.MediaTypeImageLayerGzip
	}
	return documentTypes{ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageConfig, layer}
}

func platform(p ocispec.Platform) ocispec.Platform {
	if p.OS == "" {
		return ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH}
	}
	return p
}

func imageConfig(c imageservice.Config) ocispec.ImageConfig {
	out := ocispec.ImageConfig{
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir,
		Labels: c.Labels, StopSignal: c.StopSignal,
	}
	for _, v := range c.Volumes {
		if out.Volumes == nil {
			out.Volumes = map[string]struct{}{}
		}
		out.Volumes[v] = struct{}{}
	}
	return out
}

func compress(how string, plain []byte) ([]byte, error) {
	var out bytes.Buffer
	switch how {
	case "none":
		return plain, nil
	case "zstd":
		w, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(plain); err != nil {
			return nil, err
		}
		err = w.Close()
		return out.Bytes(), err
	case "", "gzip":
		w := gzip.NewWriter(&out)
		if _, err := w.Write(plain); err != nil {
			return nil, err
		}
		err := w.Close()
		return out.Bytes(), err
	}
	return nil, fmt.Errorf("unknown compression %q", how)
}

// Tar writes the files as a tar archive, in the given order and without any check.
func Tar(files []File) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		if err := w.WriteHeader(f.header()); err != nil {
			return nil, fmt.Errorf("write %q: %w", f.Name, err)
		}
		if _, err := w.Write([]byte(f.Body)); err != nil {
			return nil, fmt.Errorf("write %q: %w", f.Name, err)
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

func (f File) header() *tar.Header {
	h := &tar.Header{
		Name: f.Name, Linkname: f.Link, Typeflag: f.Type, Mode: f.Mode, Uid: f.UID, Gid: f.GID,
		Size: int64(len(f.Body)), Format: tar.FormatPAX,
	}
	if h.Typeflag == 0 {
		h.Typeflag = tar.TypeReg
		if len(f.Name) > 0 && f.Name[len(f.Name)-1] == '/' {
			h.Typeflag = tar.TypeDir
		}
	}
	if h.Mode == 0 {
		h.Mode = 0o644
		if h.Typeflag == tar.TypeDir {
			h.Mode = 0o755
		}
	}
	for k, v := range f.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	return h
}

// OCIArchive writes images as an OCI layout.
func OCIArchive(images ...Image) ([]byte, error) {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	files := []File{{Name: "oci-layout", Body: `{"imageLayoutVersion":"1.0.0"}`}}
	for _, img := range images {
		files = append(files, img.files(func(d digest.Digest) string { return "blobs/" + string(d.Algorithm()) + "/" + d.Encoded() })...)
		m := img.Manifest
		if len(img.Names) == 0 {
			index.Manifests = append(index.Manifests, m)
		}
		for _, name := range img.Names {
			m.Annotations = map[string]string{"io.containerd.image.name": name}
			index.Manifests = append(index.Manifests, m)
		}
	}
	doc, err := json.Marshal(index)
	if err != nil {
		return nil, err
	}
	return Tar(append(files, File{Name: "index.json", Body: string(doc)}))
}

// DockerArchive writes images as docker save does.
func DockerArchive(images ...Image) ([]byte, error) {
	type entry struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	var files []File
	var list []entry
	name := func(d digest.Digest) string { return d.Encoded() }
	for _, img := range images {
		for _, f := range img.files(name) {
			if f.Name != name(img.Manifest.Digest) {
				files = append(files, f)
			}
		}
		e := entry{Config: name(img.Config.Digest), RepoTags: img.Names}
		for _, l := range img.Layers {
			e.Layers = append(e.Layers, name(l.Digest))
		}
		list = append(list, e)
	}
	doc, err := json.Marshal(list)
	if err != nil {
		return nil, err
	}
	return Tar(append(files, File{Name: "manifest.json", Body: string(doc)}))
}

// files are the blobs in a fixed order.
func (img Image) files(name func(digest.Digest) string) []File {
	var files []File
	for d, b := range img.Blobs {
		files = append(files, File{Name: name(d), Body: string(b)})
	}
	sort.Slice(files, func(i, j int) bool { return files[i].Name < files[j].Name })
	return files
}
