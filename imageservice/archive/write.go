package archive

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images/archive"
)

// Write writes images as one tar archive that is an OCI layout with a manifest.json for docker. The target of each
// entry must be a manifest, not an index; names are full references.
func Write(ctx context.Context, w io.Writer, blobs content.InfoReaderProvider, entries []Entry) error {
	opts := make([]archive.ExportOpt, 0, len(entries))
	for _, e := range entries {
		opts = append(opts, archive.WithManifest(e.Target, e.Names...))
	}
	if err := archive.Export(ctx, blobs, w, opts...); err != nil {
		return fmt.Errorf("write image archive: %w", err)
	}
	return nil
}
