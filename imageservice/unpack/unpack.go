// Package unpack turns a layer, a compressed tar stream, into a directory that overlayfs takes as a lower directory.
//
// It writes straight into the layer's own directory; no layer below is mounted or needed, so layers of one image
// unpack in parallel. Three things of the OCI layer format (image specification 1.1, layer.md) need care for that:
//
//   - Whiteouts become what overlayfs understands: a 0/0 character device for a removed name, the attribute
//     trusted.overlay.opaque for a directory whose lower content is hidden. A whiteout speaks about lower layers only,
//     wherever it stands in the stream: a name that the same layer also creates stays.
//   - A layer may hold a/b/c without entries for a and a/b. The missing directories are made, and reported as
//     implied: as upper directories they would hide mode and owner of those below, so Adopt gives them these.
//   - What a layer says about overlayfs itself (trusted.overlay.*, user.overlay.*) is not the image's to say. It is
//     dropped.
//
// Names are resolved by the kernel inside the layer's directory (see tree), so no entry, link or whiteout leads out.
package unpack

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"

	"github.com/skiff-node/skiff/imageservice"
)

// Result is what unpacking a layer found out.
type Result struct {
	Bytes, Inodes int64    // on disk, about
	Implied       []string // directories made without an entry in the layer, parents before children
}

const block = 4096 // what a file is rounded up to in Result.Bytes

// Layer unpacks the stream into dir and checks that what came out of the decompressor has the digest diffID.
func Layer(ctx context.Context, dir string, stream io.Reader, diffID digest.Digest) (Result, error) {
	if err := diffID.Validate(); err != nil {
		return Result{}, fmt.Errorf("layer digest %q: %w: %w", diffID, err, imageservice.ErrCorrupt)
	}
	plain, err := Decompress(stream)
	if err != nil {
		return Result{}, err
	}
	defer plain.Close()
	hash := diffID.Algorithm().Digester()
	body := io.TeeReader(&source{r: plain}, hash.Hash())
	t, err := openTree(dir)
	if err != nil {
		return Result{}, err
	}
	defer t.close()
	l := &layer{tree: t, entries: map[string]bool{}, parents: map[string]bool{}, white: map[string]bool{}}
	err = l.apply(ctx, body)
	if err == nil {
		err = l.finish()
	}
	if err == nil { // what follows the end of the archive counts for the digest
		_, err = io.Copy(io.Discard, body)
	}
	if err != nil {
		return Result{}, corrupt(ctx, err)
	}
	if got := hash.Digest(); got != diffID {
		return Result{}, fmt.Errorf("layer unpacks to digest %s, the image announces %s: %w", got, diffID, imageservice.ErrCorrupt)
	}
	return Result{Bytes: l.bytes, Inodes: int64(len(l.entries) + len(l.parents)), Implied: l.implied()}, nil
}

// source marks errors of reading the layer, to tell them from errors of writing files.
type source struct{ r io.Reader }

type sourceError struct{ error }

func (e sourceError) Unwrap() error { return e.error }

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = sourceError{err}
	}
	return n, err
}

// corrupt classifies an error of unpacking: what the layer is to blame for becomes ErrCorrupt.
func corrupt(ctx context.Context, err error) error {
	var bad sourceError
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.As(err, &bad), errors.Is(err, tar.ErrHeader), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("unpack layer: %w: %w", err, imageservice.ErrCorrupt)
	}
	return fmt.Errorf("unpack layer: %w", err)
}

// Decompress finds out by the first bytes how a stream is compressed and returns the plain one.
func Decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	magic, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("read stream: %w", err)
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, fmt.Errorf("read gzip header: %w: %w", err, imageservice.ErrCorrupt)
		}
		return z, nil
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}) || len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.HasPrefix(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(512<<20))
		if err != nil {
			return nil, fmt.Errorf("read zstd stream: %w", err)
		}
		return z.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(br)), nil
	}
	return io.NopCloser(br), nil
}

// layer follows the entries of one stream.
type layer struct {
	tree    *tree
	entries map[string]bool // names with an entry; true for directories
	parents map[string]bool // directories that some entry needs
	order   []string        // keys of parents, parents before children
	white   map[string]bool // names for which a whiteout came
	dirs    []dirTime
	bytes   int64
}

// note remembers an entry for what is known only at the end.
func (l *layer) note(name string, h *tar.Header) {
	l.entries[name] = h.Typeflag == tar.TypeDir
	l.bytes += (h.Size + block - 1) / block * block
	l.need(path.Dir(name))
}

func (l *layer) need(dir string) {
	if dir == "." || l.parents[dir] {
		return
	}
	l.need(path.Dir(dir))
	l.parents[dir] = true
	l.order = append(l.order, dir)
}

func (l *layer) implied() []string {
	var all []string
	for _, dir := range l.order {
		if _, ok := l.entries[dir]; !ok {
			all = append(all, dir)
		}
	}
	return all
}
