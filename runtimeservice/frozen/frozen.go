// Package frozen is what checkpoints need of the runtime: containers to be frozen, and those that go on from what was.
package frozen

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/bundle"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/checkpoint"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/record"
	"github.com/skiff-node/skiff/runtimeservice/table"
)

// Containers implements checkpoint.Runtime.
type Containers struct {
	Units   *table.Table[record.Container]
	Cgroups cgroup.Root
	Link    *link.Link
	// Dir is the directory of a container, Copies the one for the files that it goes on from.
	Dir, Copies func(id string) string
}

// Unit implements checkpoint.Runtime.
func (f Containers) Unit(id string) (checkpoint.Unit, error) {
	o, err := f.Units.Find(id)
	if err != nil {
		return checkpoint.Unit{}, err
	}
	rec := o.Record()
	if rec.Phase != lifecycle.Running {
		return checkpoint.Unit{}, fmt.Errorf("container %s is %s: %w", rec.Container.ID, rec.Phase, runtimeservice.ErrState)
	}
	dir := f.Dir(rec.Container.ID)
	spec, err := bundle.Raw(dir)
	return checkpoint.Unit{Container: rec.Public(), Cgroup: rec.Cgroup, Rootfs: filepath.Join(dir, "rootfs"), Spec: spec}, err
}

// Dump implements checkpoint.Runtime.
func (f Containers) Dump(ctx context.Context, id, images string) error {
	kept, err := f.Link.Get()
	if err != nil {
		return err
	}
	return kept.Checkpoint(ctx, keeper.Checkpoint{ID: id, Images: images})
}

// Freeze implements checkpoint.Runtime.
func (f Containers) Freeze(ctx context.Context, u checkpoint.Unit) error {
	return f.Cgroups.Freeze(ctx, u.Cgroup)
}

// Thaw implements checkpoint.Runtime.
func (f Containers) Thaw(ctx context.Context, u checkpoint.Unit) error {
	return f.Cgroups.Thaw(ctx, u.Cgroup)
}

// ContinueFrom implements checkpoint.Runtime.
func (f Containers) ContinueFrom(id string, fill func(rootfs, copies string) error) error {
	o, err := f.Units.Find(id)
	if err != nil {
		return err
	}
	rec := o.Record()
	if rec.Phase != lifecycle.Created {
		return fmt.Errorf("container %s is %s: %w", id, rec.Phase, runtimeservice.ErrState)
	}
	if rec.Restore {
		return nil
	}
	if err := os.RemoveAll(f.Copies(id)); err != nil { // of a call that was cut
		return err
	}
	if err := os.Mkdir(f.Copies(id), 0o700); err != nil {
		return err
	}
	if err := fill(filepath.Join(f.Dir(id), "rootfs"), f.Copies(id)); err != nil {
		return err
	}
	return f.Units.Change(o, func(r *record.Container) error { r.Restore = true; return nil })
}
