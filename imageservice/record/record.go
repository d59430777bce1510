// Package record keeps one small JSON file per image: all that is durable about it. Blobs and layers that no record
// names are garbage.
//
// A file each, replaced by rename, rather than one database: a torn or foreign file costs one image, never the
// start of the node; deleting an image needs no free space; and cat(1) shows what is there.
package record

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// Version is the version of the format that this program writes. It reads no other.
const Version = 1

// Image is the record of one image. Its values are not changed once it is in use; a change makes a new one.
type Image struct {
	Version  int                 `json:"version"`
	ID       digest.Digest       `json:"id"` // digest of the configuration
	Tags     []string            `json:"tags"`
	Digests  []string            `json:"digests"` // "repository@digest"
	Manifest ocispec.Descriptor  `json:"manifest"`
	Index    *ocispec.Descriptor `json:"index,omitempty"` // the index it was found in
	// Nested are the indexes between Index and Manifest, outermost first.
	Nested  []ocispec.Descriptor `json:"nested,omitempty"`
	Config  ocispec.Descriptor   `json:"config"`
	Layers  []Layer              `json:"layers"` // lowest first
	Runtime imageservice.Config  `json:"runtime"`
	Updated time.Time            `json:"updated"`
	// Artifact is set for what is not an image to run. Layers then holds one layer, without blob, with the files.
	Artifact    *Artifact         `json:"artifact,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	// Origins are how the image arrived, once for each name, with what the signature policy needs to judge it again.
	Origins []Origin `json:"origins,omitempty"`
}

// Origin is one arrival of an image.
type Origin struct {
	Transport  string          `json:"transport"`      // as the signature policy calls it
	Name       string          `json:"name,omitempty"` // in full
	Digests    []digest.Digest `json:"digests"`        // of the manifest and the indexes that led to it
	Signatures []Signature     `json:"signatures,omitempty"`
}

// Signature is a signature that came with an image.
type Signature struct {
	Payload []byte `json:"payload"`
	Base64  string `json:"signature"`
}

// Artifact is what an OCI artifact consists of.
type Artifact struct {
	Type  string               `json:"type"`
	Blobs []ocispec.Descriptor `json:"blobs"`
}

// Layer is one unpacked layer.
type Layer struct {
	Blob   ocispec.Descriptor `json:"blob"`
	Diff   digest.Digest      `json:"diff"`
	Chain  digest.Digest      `json:"chain"`
	Dir    string             `json:"dir"` // name in the layer store
	Bytes  int64              `json:"bytes"`
	Inodes int64              `json:"inodes"`
}

// Blobs returns every blob of the image.
func (r *Image) Blobs() []ocispec.Descriptor {
	blobs := append([]ocispec.Descriptor{r.Manifest, r.Config}, r.Nested...)
	if r.Index != nil {
		blobs = append(blobs, *r.Index)
	}
	return append(blobs, r.parts()...)
}

// parts are the blobs that the manifest lists as layers.
func (r *Image) parts() []ocispec.Descriptor {
	if r.Artifact != nil {
		return r.Artifact.Blobs
	}
	blobs := make([]ocispec.Descriptor, 0, len(r.Layers))
	for _, l := range r.Layers {
		blobs = append(blobs, l.Blob)
	}
	return blobs
}

// Dirs returns the names of the image's layers, lowest first.
func (r *Image) Dirs() []string {
	dirs := make([]string, 0, len(r.Layers))
	for _, l := range r.Layers {
		dirs = append(dirs, l.Dir)
	}
	return dirs
}

// Size is the bytes of compressed content.
func (r *Image) Size() int64 {
	size := r.Manifest.Size + r.Config.Size
	for _, b := range r.parts() {
		size += b.Size
	}
	return size
}

// Store is the directory of records.
type Store struct{ dir string }

// Open opens the records below root.
func Open(root string) (*Store, error) {
	s := &Store{dir: filepath.Join(root, "images")}
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of image records: %w", err)
	}
	return s, nil
}

// Load returns the readable records and, as warnings, what is wrong with the others.
func (s *Store) Load() (images []*Image, warnings []error, err error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, nil, fmt.Errorf("list image records: %w", err)
	}
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		r, err := s.read(e.Name())
		if err != nil {
			warnings = append(warnings, fmt.Errorf("image record %s: %w", filepath.Join(s.dir, e.Name()), err))
			continue
		}
		images = append(images, r)
	}
	return images, warnings, nil
}

func (s *Store) read(name string) (*Image, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		return nil, err
	}
	r := &Image{}
	if err := json.Unmarshal(b, r); err != nil {
		return nil, err
	}
	switch {
	case r.Version != Version:
		return nil, fmt.Errorf("version is %d, this program reads %d", r.Version, Version)
	case r.ID.Validate() != nil || name != fileName(r.ID):
		return nil, fmt.Errorf("is about image %q", r.ID)
	}
	return r, nil
}

// Save writes a record, durably.
func (s *Store) Save(r *Image) error {
	b, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, fileName(r.ID))
	if err := writeSynced(path+".tmp", b); err != nil {
		return errors.Join(fmt.Errorf("write image record: %w", err), os.Remove(path+".tmp"))
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return fmt.Errorf("write image record: %w", err)
	}
	return s.sync()
}

// Delete removes a record. Deleting what is gone succeeds.
func (s *Store) Delete(id digest.Digest) error {
	err := os.Remove(filepath.Join(s.dir, fileName(id)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete image record: %w", err)
	}
	return nil
}

// sync makes renames in the directory durable.
func (s *Store) sync() error {
	d, err := os.Open(s.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

func fileName(id digest.Digest) string { return id.Encoded() + ".json" }
