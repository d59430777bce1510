package engine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/manifest"
	"github.com/skiff-node/skiff/imageservice/record"
)

// choice is the manifest that a reference means on this machine.
type choice struct {
	desc     ocispec.Descriptor
	manifest ocispec.Manifest
	image    manifest.Image       // of images; artifacts have none
	indexes  []ocispec.Descriptor // that led to it, outermost first
}

// maxNesting bounds indexes within indexes.
const maxNesting = 4

// choose follows indexes, which may hold indexes, to the manifest for this machine. Where an index does not say what its
// entries are for, each is tried.
func (a *arrival) choose(ctx context.Context, d ocispec.Descriptor, depth int) (choice, error) {
	doc, err := a.document(ctx, d)
	if err != nil {
		return choice{}, err
	}
	if err := manifest.Supported(d.MediaType, doc); err != nil {
		return choice{}, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if manifest.KindOf(d.MediaType, doc) == manifest.Manifest {
		return a.read(ctx, d, doc)
	}
	if depth >= maxNesting {
		return choice{}, fmt.Errorf("%s: indexes are nested more than %d deep: %w", d.Digest, maxNesting, imageservice.ErrCorrupt)
	}
	index, err := manifest.ParseIndex(doc)
	if err != nil {
		return choice{}, fmt.Errorf("%s: %w", d.Digest, err)
	}
	candidates, err := manifest.Pick(index, a.engine.machine, a.engine.platform)
	if err != nil {
		return choice{}, err
	}
	for _, candidate := range candidates {
		var c choice
		c, err = a.choose(ctx, candidate, depth+1)
		if err == nil {
			c.indexes = append([]ocispec.Descriptor{d}, c.indexes...)
			return c, nil
		}
		if !errors.Is(err, imageservice.ErrWrongPlatform) {
			break
		}
	}
	return choice{}, err
}

// read reads a manifest, and the configuration of an image.
func (a *arrival) read(ctx context.Context, d ocispec.Descriptor, doc []byte) (choice, error) {
	c := choice{desc: d}
	var err error
	if c.manifest, err = manifest.Parse(doc); err != nil {
		return c, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if manifest.IsArtifact(c.manifest) {
		return c, a.blob(ctx, c.manifest.Config)
	}
	if err := manifest.CheckLayers(c.manifest); err != nil {
		return c, fmt.Errorf("%s: %w", d.Digest, err)
	}
	if doc, err = a.document(ctx, c.manifest.Config); err != nil {
		return c, err
	}
	c.image, err = manifest.ParseConfig(doc, len(c.manifest.Layers), a.engine.machine, a.engine.platform)
	return c, err
}

// artifact brings the blobs of an artifact and lays its files out in one layer, ready to be mounted.
func (a *arrival) artifact(ctx context.Context, r *record.Image, m ocispec.Manifest) error {
	files, err := manifest.Files(m)
	if err != nil {
		return err
	}
	r.ID, r.Artifact = r.Manifest.Digest, &record.Artifact{Type: manifest.ArtifactType(m), Blobs: m.Layers}
	if err := a.blobs(ctx, m.Layers); err != nil {
		return err
	}
	l := record.Layer{Chain: digest.FromString("artifact " + r.ID.String())}
	a.lease.hold(layerKey(l.Chain))
	err = a.engine.flights.do(ctx, layerKey(l.Chain), a.report, func(func(imageservice.Progress)) error {
		if _, ok := a.engine.pool.shared(l.Chain); ok {
			return nil
		}
		made, err := a.layOut(l, files)
		if err == nil {
			a.engine.pool.share(made)
		}
		return err
	})
	if err != nil {
		return err
	}
	have, ok := a.engine.pool.shared(l.Chain)
	if !ok {
		return fmt.Errorf("files of artifact %s vanished: %w", r.ID, imageservice.ErrCorrupt)
	}
	r.Layers = []record.Layer{have}
	return nil
}

// layOut makes a layer of an artifact's files. They are links to the blobs and take no space.
func (a *arrival) layOut(l record.Layer, files []manifest.File) (record.Layer, error) {
	layers := a.engine.pool.layers
	dir, err := layers.New()
	if err != nil {
		return l, err
	}
	l.Dir, l.Inodes = dir, int64(len(files))
	for _, f := range files {
		path := filepath.Join(layers.Path(dir), f.Name)
		err := makeDirs(layers.Path(dir), filepath.Dir(f.Name))
		if err == nil {
			err = a.engine.pool.content.Link(f.Blob.Digest, path)
		}
		if err != nil {
			return l, errors.Join(fmt.Errorf("lay out %q: %w", f.Name, err), layers.Remove(dir))
		}
	}
	return l, nil
}

// makeDirs makes a directory below root and those it is in; everyone may look into them, whatever the umask.
func makeDirs(root, dir string) error {
	if dir == "." {
		return nil
	}
	if err := makeDirs(root, filepath.Dir(dir)); err != nil {
		return err
	}
	path := filepath.Join(root, dir)
	if err := os.Mkdir(path, 0o755); err != nil {
		if os.IsExist(err) {
			return nil
		}
		return err
	}
	return os.Chmod(path, 0o755)
}
