// Package imageservice is the contract of the image store: what an image is, how it arrives, and what a
// container takes from it. It holds nouns, interfaces and sentinel errors; package engine implements them.
//
// The life of an image:
//
//	Pull / Import ──► (named, durable) ──► Prepare a root file system per container ──► Remove
//
// Blobs are fetched and unpacked before any name points at them: an image is announced only when it is durable
// and whole, so a crash leaves blobs without a name, which garbage collection takes, and never a torn image.
// An image in use by a prepared root file system keeps its layers when its names are removed.
package imageservice

import (
	"context"
	"errors"
	"io"
	"time"
)

// Sentinel errors. The edge maps them to gRPC codes; the text that CRI clients match on is added there.
var (
	ErrNotFound         = errors.New("image not found")
	ErrInvalidReference = errors.New("invalid image reference")
	ErrUnavailable      = errors.New("registry unavailable")
	ErrUnauthorized     = errors.New("registry denied access")
	ErrWrongPlatform    = errors.New("image has no variant for this machine")
	ErrCorrupt          = errors.New("image data is corrupt")
	ErrNoSpace          = errors.New("no space left on the image file system")
	ErrPullStalled      = errors.New("pull made no progress")
	ErrSignatureInvalid = errors.New("image signature validation failed")
	ErrUnsupported      = errors.New("image format is not supported")
	ErrArtifact         = errors.New("is an OCI artifact, which can only be mounted as an image volume")
)

// Image is one image as CRI knows it. ID is the digest of its configuration ("sha256:…"), the same string that
// container status and pull replies carry.
type Image struct {
	ID          string   `json:"id"`
	RepoTags    []string `json:"repoTags,omitempty"`    // "docker.io/library/busybox:1.36"
	RepoDigests []string `json:"repoDigests,omitempty"` // "docker.io/library/busybox@sha256:…"
	Size        int64    `json:"size"`                  // bytes of compressed content
	Pinned      bool     `json:"pinned,omitempty"`
	Config      Config   `json:"config"`
	// ArtifactType is set for what is not an image to run but files to mount (OCI image specification 1.1, "Guidelines for
	// Artifact Usage"). The ID of an artifact is the digest of its manifest.
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"` // of the manifest
}

// Config is the part of the OCI image configuration that running a container needs
// (OCI image specification 1.1, config.md).
type Config struct {
	User       string            `json:"user,omitempty"`
	Env        []string          `json:"env,omitempty"`
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	Volumes    []string          `json:"volumes,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
}

// Auth is a credential that came with the CRI call. The zero value means none.
type Auth struct {
	Username      string `json:"username,omitempty"`
	Password      string `json:"password,omitempty"`
	Auth          string `json:"auth,omitempty"` // base64 of "username:password"
	IdentityToken string `json:"identityToken,omitempty"`
	RegistryToken string `json:"registryToken,omitempty"`
	ServerAddress string `json:"serverAddress,omitempty"`
}

// PullRequest asks for one image. Progress, when set, is called from any goroutine, often.
type PullRequest struct {
	Reference string         `json:"reference"`
	Auth      Auth           `json:"auth"`
	Progress  func(Progress) `json:"-"`
}

// Progress is how far a blob of a pull has come. Total is 0 while it is unknown.
type Progress struct {
	Digest string `json:"digest,omitempty"`
	Stage  string `json:"stage"` // resolving, downloading, unpacking, done, exists
	Done   int64  `json:"done,omitempty"`
	Total  int64  `json:"total,omitempty"`
}

// Mount is one mount that makes a root file system, in mount(2) terms.
type Mount struct {
	Type    string   `json:"type"`
	Source  string   `json:"source"`
	Options []string `json:"options"`
}

// Point is a place in a root file system that a runtime mounts on: a directory, or else a file.
type Point struct {
	Path string // absolute and clean
	Dir  bool
}

// Usage is what a root file system or a file system takes.
type Usage struct {
	Bytes, Inodes int64
	Time          time.Time
}

// FSInfo is one file system that holds images or writable layers.
type FSInfo struct {
	Mountpoint string
	Used       Usage
}

// Images manages images by reference or id.
type Images interface {
	// Pull fetches, verifies and unpacks an image and returns it. Concurrent pulls share their layers.
	Pull(ctx context.Context, r PullRequest) (Image, error)
	// Get finds an image by reference, digest or id (a unique prefix of at least 12 digits will do).
	Get(ctx context.Context, ref string) (Image, error)
	// List returns every image, ordered by id.
	List(ctx context.Context) ([]Image, error)
	// Remove deletes every name of the image that ref means. Removing what is gone succeeds.
	Remove(ctx context.Context, ref string) error
	// FSInfo reports the file systems of images and of writable layers.
	FSInfo(ctx context.Context) (images, containers FSInfo, err error)
}

// Archives moves images in and out as tar archives (OCI layout or docker-save).
type Archives interface {
	// Import reads an archive and returns the images in it. Nothing is named unless all of it is sound.
	Import(ctx context.Context, r io.Reader) ([]Image, error)
	// Export writes the images that refs mean as one archive that is both OCI and docker readable.
	Export(ctx context.Context, w io.Writer, refs []string) error
}

// RootFS makes root file systems for containers. The key is the container id.
type RootFS interface {
	// Prepare makes a writable root file system on the image with that id and returns how to mount it. An artifact has
	// none: ErrArtifact.
	// Points that the image lacks may be there as empty directories (mode 0755) and files (0644), of which root is the
	// owner, without being part of the writable layer. A runtime makes what is not.
	// Preparing the same key again returns the same mounts.
	Prepare(ctx context.Context, key, imageID string, points []Point) ([]Mount, error)
	// View makes a read-only one (image volumes), of an image or an artifact.
	View(ctx context.Context, key, imageID string) ([]Mount, error)
	// Release forgets the root file system of key and frees its space. Releasing what is gone succeeds.
	Release(ctx context.Context, key string) error
	// Usage is what the writable layer of key takes.
	Usage(ctx context.Context, key string) (Usage, error)
	// Retain releases every key that is not in live.
	Retain(ctx context.Context, live []string) error
}

// Service is the whole image service of a node.
type Service interface {
	Images
	Archives
	RootFS
}
