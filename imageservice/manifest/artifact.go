package manifest

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// IsArtifact reports whether a manifest describes files to mount and not an image to run: its configuration is not that of
// an image.
func IsArtifact(m ocispec.Manifest) bool {
	return m.Config.MediaType != "" && !images.IsConfigType(m.Config.MediaType)
}

// ArtifactType is what an artifact says it is.
func ArtifactType(m ocispec.Manifest) string {
	if m.ArtifactType != "" {
		return m.ArtifactType
	}
	return m.Config.MediaType
}

// File is one file of an artifact.
type File struct {
	Name string // relative path
	Blob ocispec.Descriptor
}

// nameKeys are the annotations that name a blob's file, in the order CRI-O looks at them: that of OCI, and those of model
// packages (modelpack/model-spec).
func nameKeys() []string {
	return []string{ocispec.AnnotationTitle, "org.cncf.model.filepath", "org.cnai.model.filepath"}
}

// Files returns the files of an artifact: each blob that has a name, as it is, archives included (as CRI-O does). Names may
// have directories. One that leads elsewhere, or that two blobs have, makes the artifact corrupt.
func Files(m ocispec.Manifest) ([]File, error) {
	var files []File
	taken := map[string]bool{}
	for _, b := range m.Layers {
		name := fileName(b)
		if name == "" {
			continue
		}
		if err := checkName(name); err != nil {
			return nil, err
		}
		if taken[name] {
			return nil, fmt.Errorf("artifact has two files %q: %w", name, imageservice.ErrCorrupt)
		}
		taken[name] = true
		files = append(files, File{name, b})
	}
	for _, f := range files {
		for dir := path.Dir(f.Name); dir != "."; dir = path.Dir(dir) {
			if taken[dir] {
				return nil, fmt.Errorf("artifact has both a file %q and %q: %w", dir, f.Name, imageservice.ErrCorrupt)
			}
		}
	}
	return files, nil
}

func fileName(b ocispec.Descriptor) string {
	for _, key := range nameKeys() {
		if name := b.Annotations[key]; name != "" {
			return name
		}
	}
	return ""
}

func checkName(name string) error {
	bad := func(why string) error {
		return fmt.Errorf("artifact names a file %q, which %s: %w", name, why, imageservice.ErrCorrupt)
	}
	elements := strings.Split(name, "/")
	switch {
	case strings.HasPrefix(name, "/"):
		return bad("is absolute")
	case slices.Contains(elements, ".."):
		return bad("leads out of the artifact")
	case path.Clean(name) != name || name == ".":
		return bad("is not in its shortest form")
	case strings.ContainsAny(name, "\x00\n"):
		return bad("has characters that no name should have")
	case slices.ContainsFunc(elements, func(e string) bool { return len(e) > 255 }) || len(name) > 4000:
		return bad("is too long")
	}
	return nil
}

// CheckLayers refuses layers that are not tar streams this program can read, or that are kept elsewhere.
func CheckLayers(m ocispec.Manifest) error {
	for i, l := range m.Layers {
		base := l.MediaType
		for _, suffix := range []string{"+gzip", "+zstd", ".gzip", ".zstd"} {
			base = strings.TrimSuffix(base, suffix)
		}
		foreign := slices.Contains(foreignLayers(), base)
		switch {
		case foreign && len(l.URLs) > 0:
			return fmt.Errorf("%w: layer %d is foreign (%s): its registry does not have it, and nobody else is asked", imageservice.ErrUnsupported, i, l.MediaType)
		case l.MediaType == "", foreign, base == ocispec.MediaTypeImageLayer, base == images.MediaTypeDockerSchema2Layer:
		case strings.HasSuffix(l.MediaType, "+encrypted"):
			return fmt.Errorf("%w: layer %d is encrypted (%s)", imageservice.ErrUnsupported, i, l.MediaType)
		default:
			return fmt.Errorf("%w: layer %d is a %s, not a tar stream that is plain, or compressed with gzip or zstd", imageservice.ErrUnsupported, i, l.MediaType)
		}
	}
	return nil
}

func foreignLayers() []string {
	return []string{"application/vnd.oci.image.layer.nondistributable.v1.tar", images.MediaTypeDockerSchema2LayerForeign}
}
