package rootfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
)

// IDMap shows the files of a root file system with the ids of a user namespace (mount_setattr(2), MOUNT_ATTR_IDMAP). No
// file changes its owner on disk.
type IDMap struct {
	UserNS   string // path of the pinned user namespace
	UID, GID int    // of its root on the host
}

// MountMapped is Mount for a container in a user namespace. The layers of an overlay are mapped by one mount of the
// directory that holds them all, however many they are; new files take the container's own ids.
func MountMapped(mounts []imageservice.Mount, target string, ids IDMap) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	for _, m := range mounts {
		var err error
		switch m.Type {
		case "overlay":
			err = ids.overlay(m, target)
		case "bind":
			err = ids.bind(m, target)
		default:
			err = fmt.Errorf("a mount of type %s cannot be given the ids of a user namespace", m.Type)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// lowers is where the mapped layers are mounted while the overlay is made.
func lowers(target string) string { return target + ".lower" }

func (ids IDMap) overlay(m imageservice.Mount, target string) error {
	staging := lowers(target)
	options := make([]string, len(m.Options))
	for i, o := range m.Options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "lowerdir":
			dirs := strings.Split(value, ":")
			parent := commonParent(dirs)
			if err := ids.clone(parent, staging, false, 0); err != nil {
				return err
			}
			for n := range dirs {
				dirs[n] = filepath.Join(staging, strings.TrimPrefix(dirs[n], parent))
			}
			o = key + "=" + strings.Join(dirs, ":")
		case "upperdir":
			// The root directory, and it alone: it is new, and all that is written below it has the right owner.
			if err := os.Chown(value, ids.UID, ids.GID); err != nil {
				return fmt.Errorf("give the root directory to the container: %w", err)
			}
		}
		options[i] = o
	}
	m.Options = options
	err := mountOne(m, target)
	return errors.Join(err, unmount(staging)) // the overlay has mounts of its own of its layers
}

// bind mounts a directory with other ids.
func (ids IDMap) bind(m imageservice.Mount, target string) error {
	flag, _ := parse(m.Options)
	attr := uint64(0)
	if flag&unix.MS_RDONLY != 0 {
		attr = unix.MOUNT_ATTR_RDONLY
	} else if err := os.Chown(m.Source, ids.UID, ids.GID); err != nil {
		return fmt.Errorf("give the root directory to the container: %w", err)
	}
	if attr == 0 { // what is written belongs to the container's ids, and so does the directory
		return mountOne(m, target)
	}
	return ids.clone(m.Source, target, flag&unix.MS_REC != 0, attr)
}

// clone mounts a copy of the mount that source lies on, from source on, with other ids at target.
func (ids IDMap) clone(source, target string, recursive bool, attr uint64) error {
	if err := os.MkdirAll(target, 0o711); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	user, err := unix.Open(ids.UserNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the user namespace: %w", err)
	}
	defer unix.Close(user)
	flags, depth := uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC), uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags, depth = flags|unix.AT_RECURSIVE, depth|unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return fmt.Errorf("clone the mount of %s: %w", source, err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", depth, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP | attr, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(user),
	})
	if err != nil {
		return fmt.Errorf("map the ids of %s, which its file system may not support: %w", source, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s with other ids: %w", source, err)
	}
	return nil
}

// commonParent is the deepest directory above all of dirs.
func commonParent(dirs []string) string {
	parent := filepath.Dir(dirs[0])
	for _, dir := range dirs[1:] {
		for parent != "/" && !strings.HasPrefix(dir, parent+"/") {
			parent = filepath.Dir(parent)
		}
	}
	return parent
}

// CanMap says why the files below dir cannot be the layers of a container in that user namespace, or nil. It mounts in
// scratch, an empty directory, and leaves it so.
func CanMap(dir, scratch, userNS string) error {
	ids, target := IDMap{UserNS: userNS}, filepath.Join(scratch, "rootfs")
	if err := os.MkdirAll(target, 0o711); err != nil {
		return err
	}
	err := ids.clone(dir, lowers(target), false, 0)
	if err == nil {
		err = mountOne(imageservice.Mount{Type: "overlay", Options: []string{"ro", "lowerdir=" + lowers(target) + ":" + scratch}}, target)
	}
	return errors.Join(err, Unmount(target))
}
