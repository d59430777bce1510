// Package images builds the container images that the tests and the first run use, and serves them from a
// registry on loopback. Nothing is fetched: an image is one layer made from a static binary of this project or
// from Debian's busybox-static.
package images

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"sort"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Spec describes an image of one layer.
type Spec struct {
	Files      map[string]File   // by absolute path; parent directories are made
	Links      map[string]string // symbolic, by absolute path
	Hardlinks  map[string]string // to files, both by absolute path
	Dirs       []string
	Entrypoint []string
	Cmd        []string
	Env        []string
	User       string
	WorkingDir string
	Labels     map[string]string
}

// File is a regular file of an image.
type File struct {
	Content []byte
	Mode    int64 // 0 means 0755
}

// Binary reads a static binary of this machine as an image file.
func Binary(path string) (File, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return File{}, fmt.Errorf("read binary for image: %w", err)
	}
	return File{Content: content}, nil
}

// Build makes the image for linux on this architecture. The same Spec gives the same digest.
func Build(s Spec, arch string) (v1.Image, error) {
	layer, err := s.layer()
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(layer)), nil
	})
	if err != nil {
		return nil, fmt.Errorf("make layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, fmt.Errorf("append layer: %w", err)
	}
	cfg, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	cfg = cfg.DeepCopy()
	cfg.OS, cfg.Architecture = "linux", arch
	cfg.Config = v1.Config{Entrypoint: s.Entrypoint, Cmd: s.Cmd, Env: append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}, s.Env...),
		User: s.User, WorkingDir: s.WorkingDir, Labels: s.Labels}
	return mutate.ConfigFile(img, cfg)
}

// layer is the uncompressed tar of the image's files, in a fixed order and without times.
func (s Spec) layer() ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{"": true}
	headers := s.headers()
	for _, h := range headers {
		if err := parents(w, made, h.Name); err != nil {
			return nil, err
		}
		if h.Typeflag == tar.TypeDir {
			made[strings.Trim(h.Name, "/")] = true
		}
		if err := w.WriteHeader(&h); err != nil {
			return nil, fmt.Errorf("write %s: %w", h.Name, err)
		}
		if _, err := w.Write(s.Files["/"+h.Name].Content); err != nil {
			return nil, fmt.Errorf("write %s: %w", h.Name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func (s Spec) headers() []tar.Header {
	var hs []tar.Header
	for _, d := range append([]string{"/tmp"}, s.Dirs...) {
		mode := int64(0o755)
		if d == "/tmp" {
			mode = 0o1777
		}
		hs = append(hs, tar.Header{Typeflag: tar.TypeDir, Name: strings.Trim(d, "/") + "/", Mode: mode})
	}
	for p, f := range s.Files {
		mode := f.Mode
		if mode == 0 {
			mode = 0o755
		}
		hs = append(hs, tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(p, "/"), Mode: mode, Size: int64(len(f.Content))})
	}
	for p, target := range s.Links {
		hs = append(hs, tar.Header{Typeflag: tar.TypeSymlink, Name: strings.TrimPrefix(p, "/"), Linkname: target, Mode: 0o777})
	}
	for p, target := range s.Hardlinks {
		hs = append(hs, tar.Header{Typeflag: tar.TypeLink, Name: strings.TrimPrefix(p, "/"), Linkname: strings.TrimPrefix(target, "/"), Mode: 0o755})
	}
	sort.Slice(hs, func(i, j int) bool { // a hard link comes after what it names
		a, b := hs[i].Typeflag == tar.TypeLink, hs[j].Typeflag == tar.TypeLink
		return a != b && b || a == b && hs[i].Name < hs[j].Name
	})
	return hs
}

func parents(w *tar.Writer, made map[string]bool, name string) error {
	dir := path.Dir(strings.Trim(name, "/"))
	if dir == "." || made[dir] {
		return nil
	}
	if err := parents(w, made, dir); err != nil {
		return err
	}
	made[dir] = true
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

// BuildArchive builds images, by reference, and writes them as one archive.
func BuildArchive(file string, specs map[string]Spec) error {
	set := map[string]v1.Image{}
	for ref, spec := range specs {
		img, err := Build(spec, runtime.GOARCH)
		if err != nil {
			return fmt.Errorf("build image %s: %w", ref, err)
		}
		set[ref] = img
	}
	return WriteArchive(file, set)
}

// WriteArchive writes images, by reference, as one docker-save archive. The file appears whole or not at all.
func WriteArchive(file string, imgs map[string]v1.Image) error {
	refs := map[name.Reference]v1.Image{}
	for ref, img := range imgs {
		tag, err := name.NewTag(ref)
		if err != nil {
			return fmt.Errorf("image reference %q: %w", ref, err)
		}
		refs[tag] = img
	}
	tmp := file + ".tmp"
	if err := tarball.MultiRefWriteToFile(tmp, refs); err != nil {
		return fmt.Errorf("write archive %s: %w", file, err)
	}
	return os.Rename(tmp, file)
}
