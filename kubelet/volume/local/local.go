// Package local is the volume kind local: a persistent volume that is a directory, a file system or a block device of this
// node. The scheduler brings pods to it by its node affinity.
package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/skiff-node/skiff/kubelet/volume"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// Kind sets up local volumes. The zero value is ready.
type Kind struct {
	mu sync.Mutex // one change of owner at a time: pods may share a volume
}

// Name implements volume.Kind.
func (*Kind) Name() string { return "local-volume" }

// Handles implements volume.Kind: a pod cannot have a local volume but by a claim.
func (*Kind) Handles(*v1.VolumeSource) bool { return false }

// HandlesPersistent implements volume.Persistent.
func (*Kind) HandlesPersistent(src *v1.PersistentVolumeSource) bool { return src.Local != nil }

// Setup implements volume.Kind. A directory is bind-mounted into the pod's own directory, so that what is mounted there
// stays the same for as long as the pod lives; a block device is used where it is.
func (k *Kind) Setup(_ context.Context, req volume.Request) (volume.Place, error) {
	pv := req.Claimed.Volume
	path := pv.Spec.Local.Path
	place := volume.Place{Path: req.Dir, ReadOnly: req.Claimed.ReadOnly, Device: req.Claimed.Block(), Relabel: !req.Claimed.ReadOnly && !req.Claimed.Block()}
	if !filepath.IsAbs(path) || slices.Contains(strings.Split(path, "/"), "..") {
		return place, fmt.Errorf("local volume path %q must be absolute and without \"..\"", path)
	}
	info, err := os.Stat(path)
	if err != nil {
		return place, fmt.Errorf("local volume: %w", err)
	}
	device := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	switch {
	case place.Device && device:
		place.Path = path
		return place, nil
	case place.Device:
		return place, &volume.SetupError{Volume: pv.Name, Step: "MapVolume.SetUpDevice", Err: fmt.Errorf("path %s is not a block device", path)}
	case device:
		return place, fmt.Errorf("local volume %s is a block device to be formatted: %w; mount it and name the mount point", path, volume.ErrUnsupported)
	case !info.IsDir():
		return place, errors.New("only directory and block device are supported")
	}
	return place, k.bind(path, req)
}

// bind mounts path at the pod's directory, once.
func (k *Kind) bind(path string, req volume.Request) error {
	if err := os.MkdirAll(req.Dir, 0o750); err != nil {
		return err
	}
	same, err := sameDir(path, req.Dir)
	if err != nil || same {
		return err
	}
	if sc := req.Pod.Spec.SecurityContext; sc != nil && !req.Claimed.ReadOnly {
		k.mu.Lock()
		err := volume.Own(path, sc.FSGroup, sc.FSGroupChangePolicy, false)
		k.mu.Unlock()
		if err != nil {
			return err
		}
	}
	if err := unix.Mount(path, req.Dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", path, req.Dir, err)
	}
	if !req.Claimed.ReadOnly {
		return nil
	}
	attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, req.Dir, unix.AT_RECURSIVE, attr); err != nil {
		return errors.Join(fmt.Errorf("make %s read-only: %w", req.Dir, err), volume.Unmount(req.Dir))
	}
	return nil
}

// sameDir reports whether both paths are one directory: it is mounted already.
func sameDir(a, b string) (bool, error) {
	var sa, sb unix.Stat_t
	if err := unix.Stat(a, &sa); err != nil {
		return false, fmt.Errorf("stat %s: %w", a, err)
	}
	if err := unix.Stat(b, &sb); err != nil {
		return false, fmt.Errorf("stat %s: %w", b, err)
	}
	return sa.Dev == sb.Dev && sa.Ino == sb.Ino, nil
}
