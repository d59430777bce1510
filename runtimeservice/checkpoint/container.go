package checkpoint

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Unit is a container as checkpoints see it.
type Unit struct {
	Container runtimeservice.Container
	Cgroup    string
	Rootfs    string // where its root file system is mounted
	Spec      []byte // its OCI specification
}

// Runtime is what checkpoints need of the runtime.
type Runtime interface {
	// Unit finds a container that runs, in a sandbox that is ready, and refuses any other.
	Unit(id string) (Unit, error)
	// Dump has CRIU write a container into a directory; the container runs on, or stays frozen if it was.
	Dump(ctx context.Context, id, images string) error
	// Freeze stops all processes of a container, and Thaw lets them go on.
	Freeze(ctx context.Context, u Unit) error
	Thaw(ctx context.Context, u Unit) error
	// ContinueFrom makes the start of a created container the continuation of what CRIU wrote; copies is a directory for
	// its files that lasts as long. Where that is so already, fill is not called.
	ContinueFrom(id string, fill func(rootfs, copies string) error) error
}

// Checkpoints implements runtimeservice.Checkpoints.
type Checkpoints struct {
	Runtime    Runtime
	Sandboxes  runtimeservice.Sandboxes
	Containers runtimeservice.Containers

	restoring sync.Mutex // a restore that is repeated meanwhile waits, and finds what the first has made
}

// The names in an archive, as Podman and CRI-O made them common (checkpointctl reads them).
const (
	imagesDir   = "checkpoint"
	configFile  = "config.dump"
	specFile    = "spec.dump"
	diffFile    = "rootfs-diff.tar"
	deletedFile = "deleted.files"
	logFile     = "dump.log"
)

// containerDump is config.dump.
type containerDump struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	RootfsImage     string    `json:"rootfsImage"`
	RootfsImageRef  string    `json:"rootfsImageRef"`
	RootfsImageName string    `json:"rootfsImageName"`
	Runtime         string    `json:"runtime"`
	CreatedTime     time.Time `json:"createdTime"`
	CheckpointedAt  time.Time `json:"checkpointedTime"`
}

// defaultTimeout bounds a checkpoint whose request sets no limit.
const defaultTimeout = 5 * time.Minute

// CheckpointContainer implements runtimeservice.Checkpoints. The archive appears whole or not at all.
func (c *Checkpoints) CheckpointContainer(ctx context.Context, id, location string, timeout time.Duration) (err error) {
	if !filepath.IsAbs(location) {
		return fmt.Errorf("%w: location: %q is not an absolute path", runtimeservice.ErrInvalid, location)
	}
	unit, err := c.Runtime.Unit(id)
	if err != nil {
		return err
	}
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := Usable(ctx); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(filepath.Dir(location), "."+filepath.Base(location)+"-")
	if err != nil {
		return fmt.Errorf("make a directory for the checkpoint: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := c.dump(ctx, unit, dir); err != nil {
		return err
	}
	whole := dir + ".tar"
	if err := archive(dir, whole); err != nil {
		return errors.Join(err, os.Remove(whole))
	}
	if err := os.Rename(whole, location); err != nil {
		return errors.Join(fmt.Errorf("put the archive in its place: %w", err), os.Remove(whole))
	}
	return nil
}

// dump writes all of a container into a directory.
func (c *Checkpoints) dump(ctx context.Context, u Unit, dir string) error {
	images := filepath.Join(dir, imagesDir)
	if err := os.Mkdir(images, 0o700); err != nil {
		return fmt.Errorf("make a directory for the checkpoint: %w", err)
	}
	if err := c.Runtime.Dump(ctx, u.Container.ID, images); err != nil {
		return fmt.Errorf("checkpoint container %s: %w", u.Container.ID, err)
	}
	if err := os.Rename(filepath.Join(images, logFile), filepath.Join(dir, logFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := c.dumpRootfs(u, dir); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, specFile), u.Spec, 0o600); err != nil {
		return fmt.Errorf("write %s: %w", specFile, err)
	}
	return writeJSON(filepath.Join(dir, configFile), containerDump{
		ID: u.Container.ID, Name: u.Container.Config.Metadata.Name, Runtime: "runc",
		RootfsImage: u.Container.ImageID, RootfsImageRef: u.Container.ImageID, RootfsImageName: imageName(u.Container),
		CreatedTime: u.Container.CreatedAt, CheckpointedAt: time.Now(),
	})
}

func imageName(c runtimeservice.Container) string {
	if c.Config.Image.UserSpecified != "" {
		return c.Config.Image.UserSpecified
	}
	return c.Config.Image.Ref
}

func (c *Checkpoints) dumpRootfs(u Unit, dir string) (err error) {
	upper, err := upperDir(u.Rootfs)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, diffFile), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", diffFile, err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	deleted, err := writeDiff(upper, f)
	if err != nil || len(deleted) == 0 {
		return err
	}
	return writeJSON(filepath.Join(dir, deletedFile), deleted)
}

// archive packs a directory.
func archive(dir, to string) (err error) {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := tar.NewWriter(f)
	if err := w.AddFS(os.DirFS(dir)); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("write the archive: %w", err)
	}
	return nil
}

// copyFiles copies the plain files of a directory.
func copyFiles(from, to string) error {
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() {
			continue
		}
		if err := copyFile(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return fmt.Errorf("copy the checkpoint: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
