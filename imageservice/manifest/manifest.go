// Package manifest reads the documents that describe an image: index, manifest and configuration, in OCI and docker
// schema 2 form (OCI image specification 1.1). All of it is pure.
package manifest

import (
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// Limit is the most bytes an index, manifest or configuration may have.
const Limit = 16 << 20

// Kind is what a document is.
type Kind int

// The kinds of documents.
const (
	Unknown  Kind = iota
	Index         // a list of manifests, one per platform
	Manifest      // one image
)

// KindOf says what a document is: by its media type, or by its fields where the type says nothing.
func KindOf(mediaType string, doc []byte) Kind {
	switch {
	case images.IsIndexType(mediaType):
		return Index
	case images.IsManifestType(mediaType):
		return Manifest
	}
	var fields struct {
		MediaType string          `json:"mediaType"`
		Manifests json.RawMessage `json:"manifests"`
		Layers    json.RawMessage `json:"layers"`
		Config    json.RawMessage `json:"config"`
	}
	if json.Unmarshal(doc, &fields) != nil {
		return Unknown
	}
	switch {
	case fields.Manifests != nil && fields.Layers == nil && fields.Config == nil:
		return Index
	case fields.Layers != nil && fields.Config != nil && fields.Manifests == nil:
		return Manifest
	}
	return Unknown
}

// single makes sure that a document can be read in one way only (CVE-2021-41190): it has no field of another kind, and its
// own media type, if any, does not contradict.
func single(doc []byte, want Kind) error {
	var fields struct {
		MediaType string `json:"mediaType"`
		Manifests any    `json:"manifests"`
		Layers    any    `json:"layers"`
		Config    any    `json:"config"`
	}
	if err := json.Unmarshal(doc, &fields); err != nil {
		return fmt.Errorf("%w: %w", err, imageservice.ErrCorrupt)
	}
	other := fields.Manifests != nil
	if want == Index {
		other = fields.Layers != nil || fields.Config != nil
	}
	if other {
		return fmt.Errorf("it has fields of both an index and a manifest: %w", imageservice.ErrCorrupt)
	}
	if fields.MediaType != "" && KindOf(fields.MediaType, doc) != want {
		return fmt.Errorf("it calls itself %q: %w", fields.MediaType, imageservice.ErrCorrupt)
	}
	return nil
}

// Supported refuses documents of kinds that this program does not read, by name.
func Supported(mediaType string, doc []byte) error {
	var fields struct {
		SchemaVersion int             `json:"schemaVersion"`
		FSLayers      json.RawMessage `json:"fsLayers"`
	}
	known := json.Unmarshal(doc, &fields) == nil
	switch {
	case mediaType == images.MediaTypeDockerSchema1Manifest, strings.HasPrefix(mediaType, "application/vnd.docker.distribution.manifest.v1+"),
		known && fields.SchemaVersion == 1 && fields.FSLayers != nil:
		return fmt.Errorf("%w: it is a docker schema 1 manifest, which has been obsolete since 2017: push the image again with a current tool", imageservice.ErrUnsupported)
	case KindOf(mediaType, doc) == Unknown:
		return fmt.Errorf("%w: %q is neither an image manifest nor an index", imageservice.ErrUnsupported, mediaType)
	}
	return nil
}

// ParseIndex reads an index.
func ParseIndex(doc []byte) (ocispec.Index, error) {
	var index ocispec.Index
	if err := single(doc, Index); err != nil {
		return index, fmt.Errorf("read image index: %w", err)
	}
	if err := json.Unmarshal(doc, &index); err != nil {
		return index, fmt.Errorf("read image index: %w: %w", err, imageservice.ErrCorrupt)
	}
	return index, nil
}

// attestation is the annotation of build attestations, which stand in an index beside what they are about.
const attestation = "vnd.docker.reference.type"

// Pick returns the manifests of an index that may be for a machine, the best first. The error says what there is instead.
func Pick(index ocispec.Index, machine platforms.MatchComparer, wanted string) ([]ocispec.Descriptor, error) {
	var fit []ocispec.Descriptor
	var have []string
	for _, m := range index.Manifests {
		switch {
		case m.Annotations[attestation] != "":
		case m.Platform == nil:
			fit = append(fit, m) // what it leads to is checked later
		case m.Platform.OS == "unknown": // attestations of the build
		case machine.Match(*m.Platform):
			fit = append(fit, m)
		default:
			have = append(have, platforms.FormatAll(*m.Platform))
		}
	}
	if len(fit) == 0 {
		return nil, wrongPlatform(have, wanted)
	}
	sort.SliceStable(fit, func(i, j int) bool {
		a, b := fit[i].Platform, fit[j].Platform
		if a == nil || b == nil {
			return a != nil && b == nil
		}
		return machine.Less(*a, *b)
	})
	return fit, nil
}

func wrongPlatform(have []string, wanted string) error {
	what := "none"
	if len(have) > 0 {
		what = strings.Join(have, ", ")
	}
	return fmt.Errorf("%w: this machine is %s, the image has %s", imageservice.ErrWrongPlatform, wanted, what)
}

// Parse reads a manifest.
func Parse(doc []byte) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	if err := single(doc, Manifest); err != nil {
		return m, fmt.Errorf("read image manifest: %w", err)
	}
	if err := json.Unmarshal(doc, &m); err != nil {
		return m, fmt.Errorf("read image manifest: %w: %w", err, imageservice.ErrCorrupt)
	}
	for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
		if err := d.Digest.Validate(); err != nil {
			return m, fmt.Errorf("image manifest names blob %q: %w: %w", d.Digest, err, imageservice.ErrCorrupt)
		}
		if d.Size < 0 {
			return m, fmt.Errorf("image manifest gives blob %s the size %d: %w", d.Digest, d.Size, imageservice.ErrCorrupt)
		}
	}
	return m, nil
}

// Image is what a configuration says.
type Image struct {
	Platform ocispec.Platform
	DiffIDs  []digest.Digest
	ChainIDs []digest.Digest // of each layer on those below it
	Config   imageservice.Config
}

// ParseConfig reads the configuration of an image with that many layers and checks that it is for this machine.
func ParseConfig(doc []byte, layers int, machine platforms.MatchComparer, wanted string) (Image, error) {
	var c ocispec.Image
	if err := json.Unmarshal(doc, &c); err != nil {
		return Image{}, fmt.Errorf("read image configuration: %w: %w", err, imageservice.ErrCorrupt)
	}
	if c.OS != "" && !machine.Match(c.Platform) {
		return Image{}, wrongPlatform([]string{platforms.FormatAll(c.Platform)}, wanted)
	}
	if len(c.RootFS.DiffIDs) != layers {
		return Image{}, fmt.Errorf("image configuration lists %d layers, the manifest %d: %w", len(c.RootFS.DiffIDs), layers, imageservice.ErrCorrupt)
	}
	for _, d := range c.RootFS.DiffIDs {
		if err := d.Validate(); err != nil {
			return Image{}, fmt.Errorf("image configuration names layer %q: %w: %w", d, err, imageservice.ErrCorrupt)
		}
	}
	return Image{Platform: c.Platform, DiffIDs: c.RootFS.DiffIDs, ChainIDs: chain(c.RootFS.DiffIDs), Config: config(c.Config)}, nil
}

func config(c ocispec.ImageConfig) imageservice.Config {
	out := imageservice.Config{
		User: c.User, Env: c.Env, Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir,
		Labels: c.Labels, StopSignal: c.StopSignal,
	}
	for v := range c.Volumes {
		out.Volumes = append(out.Volumes, v)
	}
	sort.Strings(out.Volumes)
	return out
}

// chain computes the chain ids: a layer's identity together with all below it (config.md, "Layer ChainID").
func chain(diffs []digest.Digest) []digest.Digest {
	ids := make([]digest.Digest, len(diffs))
	for i, d := range diffs {
		if i == 0 {
			ids[i] = d
			continue
		}
		ids[i] = digest.FromString(ids[i-1].String() + " " + d.String())
	}
	return ids
}
