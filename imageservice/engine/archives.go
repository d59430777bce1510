package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/archive"
	"github.com/skiff-node/skiff/imageservice/engine/catalog"
	"github.com/skiff-node/skiff/imageservice/record"
	"github.com/skiff-node/skiff/imageservice/unpack"
)

// Import reads an archive, compressed or not, and returns the images in it. Nothing is named unless all is sound.
func (e *Engine) Import(ctx context.Context, r io.Reader) ([]imageservice.Image, error) {
	hold := e.pool.lease()
	ids, err := e.importHeld(ctx, r, hold)
	hold.release()
	if sweepErr := e.janitor.sweep(); err == nil {
		err = sweepErr
	}
	if err != nil {
		return nil, fmt.Errorf("import images: %w", classify(err))
	}
	return e.catalog.Publish(ids)
}

func (e *Engine) importHeld(ctx context.Context, r io.Reader, hold *lease) ([]digest.Digest, error) {
	plain, err := unpack.Decompress(r)
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	entries, err := archive.Read(ctx, plain, &inbox{pool: e.pool, lease: hold})
	if err != nil {
		return nil, err
	}
	var records []*record.Image
	var ids []digest.Digest
	for _, entry := range entries {
		a := &arrival{engine: e, source: nowhere{}, lease: hold, report: func(imageservice.Progress) {}, admit: e.guard.Imported(entry.Docker)}
		img, err := a.assemble(ctx, entry.Target)
		if err != nil {
			return nil, err
		}
		if err := label(img, entry); err != nil {
			return nil, err
		}
		records = append(records, img)
		ids = append(ids, img.ID)
	}
	slices.Sort(ids)
	return slices.Compact(ids), announce(e, records)
}

// label gives the image the names that the archive has for it.
func label(img *record.Image, entry archive.Entry) error {
	for _, ref := range entry.Names {
		n, err := catalog.ParseName(ref)
		if err != nil {
			return err
		}
		img.Tags = catalog.Union(img.Tags, n.Tags())
		img.Digests = catalog.Union(img.Digests, n.Digests(entry.Target.Digest))
	}
	return nil
}

// inbox stores what an archive holds.
type inbox struct {
	pool  *pool
	lease *lease
}

func (b *inbox) Put(r io.Reader, want ocispec.Descriptor) (ocispec.Descriptor, error) {
	w, err := b.pool.content.Writer(want)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer w.Discard()
	if _, err := io.CopyBuffer(w, r, make([]byte, 256<<10)); err != nil {
		return ocispec.Descriptor{}, err
	}
	return b.lease.commit(w)
}

func (b *inbox) Read(d digest.Digest, limit int64) ([]byte, error) {
	return b.pool.content.Read(d, limit)
}

// Export writes the images that refs mean as one archive that is both OCI and docker readable. An image asked for
// by id or digest comes with all its tags, one asked for by tag with that.
func (e *Engine) Export(ctx context.Context, w io.Writer, refs []string) error {
	if len(refs) == 0 {
		return fmt.Errorf("export images: %w: none is named", imageservice.ErrInvalidReference)
	}
	hold := e.pool.lease()
	defer hold.release()
	var entries []archive.Entry
	for _, ref := range refs {
		r, err := e.catalog.Find(ref)
		if err != nil {
			return fmt.Errorf("export images: %w", err)
		}
		for _, b := range r.Blobs() {
			hold.hold(b.Digest.String())
		}
		names := r.Tags
		if n, err := catalog.ParseName(ref); err == nil && slices.Contains(r.Tags, n.Full) {
			names = []string{n.Full}
		}
		entries = append(entries, archive.Entry{Target: r.Manifest, Names: names})
	}
	if err := archive.Write(ctx, w, e.pool.content, entries); err != nil {
		return errors.Join(err, ctx.Err())
	}
	return nil
}
