package content

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
)

// early is the size from which a blob is handed to the disk as soon as it is whole.
const early = 256 << 10

// Writer takes one blob. It ends with Commit; Discard after Commit does nothing, so it can be deferred.
type Writer struct {
	store  *Store
	file   *os.File
	want   ocispec.Descriptor
	hash   digest.Digester
	size   int64
	closed bool
}

// Writer starts a blob. An empty digest in want means that it is not known yet; a size below 1 means the same.
func (s *Store) Writer(want ocispec.Descriptor) (*Writer, error) {
	algorithm := digest.Canonical
	if want.Digest != "" {
		if err := want.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("digest %q: %w: %w", want.Digest, err, imageservice.ErrCorrupt)
		}
		algorithm = want.Digest.Algorithm()
	}
	f, err := os.CreateTemp(s.ingest, "blob-")
	if err != nil {
		return nil, fmt.Errorf("start blob: %w", err)
	}
	return &Writer{store: s, file: f, want: want, hash: algorithm.Digester()}, nil
}

// Write refuses bytes beyond the expected size, so that a lying registry cannot fill the disk.
func (w *Writer) Write(p []byte) (int, error) {
	if w.want.Size > 0 && w.size+int64(len(p)) > w.want.Size {
		return 0, fmt.Errorf("blob %s is longer than the %d bytes announced: %w", w.want.Digest, w.want.Size, imageservice.ErrCorrupt)
	}
	n, err := w.file.Write(p)
	w.hash.Hash().Write(p[:n])
	w.size += int64(n)
	return n, err
}

// Commit verifies the blob and gives it its name.
func (w *Writer) Commit() (ocispec.Descriptor, error) {
	got := w.hash.Digest()
	switch {
	case w.want.Size > 0 && w.size != w.want.Size:
		return ocispec.Descriptor{}, fmt.Errorf("blob %s has %d bytes, %d were announced: %w", w.want.Digest, w.size, w.want.Size, imageservice.ErrCorrupt)
	case w.want.Digest != "" && got != w.want.Digest:
		return ocispec.Descriptor{}, fmt.Errorf("blob %s has digest %s: %w", w.want.Digest, got, imageservice.ErrCorrupt)
	}
	path, err := w.store.path(got)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if w.size >= early {
		// Best effort: the caller's sync is what counts, and it finds little left to do.
		_ = unix.SyncFileRange(int(w.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	if err := w.file.Close(); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("close blob %s: %w", got, err)
	}
	if err := os.Rename(w.file.Name(), path); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("name blob %s: %w", filepath.Base(path), err)
	}
	w.closed = true
	return ocispec.Descriptor{MediaType: w.want.MediaType, Digest: got, Size: w.size}, nil
}

// Discard forgets an uncommitted blob.
func (w *Writer) Discard() {
	if w.closed {
		return
	}
	w.closed = true
	w.file.Close()
	os.Remove(w.file.Name())
}
