// Package content keeps blobs (manifests, configurations, compressed layers) in files named by their digest.
//
// A blob is written to a file of its own in ingest/ while its digest is computed, and renamed to its name once
// size and digest are what was expected: a file under blobs/ was whole when it got its name. Nothing is synced
// here. The caller syncs the file system once before anything durable refers to a blob, and trusts after a
// restart only blobs that something durable refers to; all others are garbage, however whole they look.
package content

import (
	"context"
	_ "crypto/sha256" // the digest algorithms of the OCI specification
	_ "crypto/sha512"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	containerd "github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

// Store is a directory of blobs. It is safe for concurrent use; two writers of the same blob do no harm.
type Store struct {
	blobs, ingest string
}

// Open opens the store at root and discards what an earlier process left half written.
func Open(root string) (*Store, error) {
	s := &Store{blobs: filepath.Join(root, "blobs"), ingest: filepath.Join(root, "ingest")}
	if err := os.RemoveAll(s.ingest); err != nil {
		return nil, fmt.Errorf("discard unfinished blobs: %w", err)
	}
	for _, dir := range []string{s.ingest, filepath.Join(s.blobs, string(digest.SHA256)), filepath.Join(s.blobs, string(digest.SHA512))} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make content store: %w", err)
		}
	}
	return s, nil
}

// path is where the blob lives; the digest must be valid, which keeps it from naming any other file.
func (s *Store) path(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("digest %q: %w: %w", d, err, imageservice.ErrCorrupt)
	}
	return filepath.Join(s.blobs, string(d.Algorithm()), d.Encoded()), nil
}

// Has reports whether the blob is there with the expected size. A short or long file counts as absent: it was torn.
func (s *Store) Has(d digest.Digest, size int64) bool {
	p, err := s.path(d)
	if err != nil {
		return false
	}
	fi, err := os.Lstat(p)
	return err == nil && fi.Mode().IsRegular() && fi.Size() == size
}

// Open opens a blob for reading.
func (s *Store) Open(d digest.Digest) (*os.File, error) {
	p, err := s.path(d)
	if err != nil {
		return nil, err
	}
	return os.Open(p)
}

// Link gives a blob a second name, at path, from where everyone may read it. It takes no space, except where the file
// system cannot have one more name for the file.
func (s *Store) Link(d digest.Digest, path string) error {
	p, err := s.path(d)
	if err != nil {
		return err
	}
	if err := os.Chmod(p, 0o444); err != nil {
		return err
	}
	err = os.Link(p, path)
	if errors.Is(err, syscall.EMLINK) || errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOTSUP) {
		err = s.copyTo(d, path)
	}
	return err
}

func (s *Store) copyTo(d digest.Digest, path string) error {
	from, err := s.Open(d)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o444)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Close())
}

// Read returns a small blob, whole and verified.
func (s *Store) Read(d digest.Digest, limit int64) ([]byte, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read blob %s: %w", d, err)
	case int64(len(b)) > limit:
		return nil, fmt.Errorf("blob %s is larger than %d bytes: %w", d, limit, imageservice.ErrCorrupt)
	case d.Algorithm().FromBytes(b) != d:
		return nil, fmt.Errorf("blob %s does not match its digest: %w", d, imageservice.ErrCorrupt)
	}
	return b, nil
}

// Delete removes a blob. Deleting what is gone succeeds.
func (s *Store) Delete(d digest.Digest) error {
	p, err := s.path(d)
	if err != nil {
		return err
	}
	if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// List returns the digest of every blob.
func (s *Store) List() ([]digest.Digest, error) {
	var all []digest.Digest
	algorithms, err := os.ReadDir(s.blobs)
	if err != nil {
		return nil, err
	}
	for _, a := range algorithms {
		files, err := os.ReadDir(filepath.Join(s.blobs, a.Name()))
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			d := digest.NewDigestFromEncoded(digest.Algorithm(a.Name()), f.Name())
			if d.Validate() == nil {
				all = append(all, d)
			}
		}
	}
	return all, nil
}

// Info implements containerd's content.InfoProvider, for the archive exporter.
func (s *Store) Info(_ context.Context, d digest.Digest) (containerd.Info, error) {
	p, err := s.path(d)
	if err != nil {
		return containerd.Info{}, err
	}
	fi, err := os.Stat(p)
	if errors.Is(err, fs.ErrNotExist) {
		return containerd.Info{}, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	} else if err != nil {
		return containerd.Info{}, err
	}
	return containerd.Info{Digest: d, Size: fi.Size(), CreatedAt: fi.ModTime(), UpdatedAt: fi.ModTime()}, nil
}

// ReaderAt implements containerd's content.Provider, for the archive exporter.
func (s *Store) ReaderAt(_ context.Context, desc ocispec.Descriptor) (containerd.ReaderAt, error) {
	f, err := s.Open(desc.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("blob %s: %w", desc.Digest, errdefs.ErrNotFound)
	} else if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return readerAt{f, fi.Size()}, nil
}

type readerAt struct {
	*os.File
	size int64
}

func (r readerAt) Size() int64 { return r.size }
