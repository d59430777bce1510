// Package rootfs mounts root file systems and image volumes, and opens files inside one without ever leaving it.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
)

// flags are the mount options that are flags of mount(2).
var flags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "relatime": unix.MS_RELATIME, "bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC,
	"rw": 0,
}

// Mount mounts at target, which is made. A bind mount that shall be read-only is remounted so.
func Mount(mounts []imageservice.Mount, target string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return fmt.Errorf("make the mount point: %w", err)
	}
	for _, m := range mounts {
		if err := mountOne(m, target); err != nil {
			return err
		}
	}
	return nil
}

// Labelled has all files of an overlay carry one SELinux label; "" is none.
func Labelled(mounts []imageservice.Mount, label string) []imageservice.Mount {
	if label == "" {
		return mounts
	}
	out := slices.Clone(mounts)
	for i, m := range out {
		if m.Type == "overlay" { // the quotes are for the commas of a level
			out[i].Options = append(slices.Clone(m.Options), `context="`+label+`"`)
		}
	}
	return out
}

// With adds mount options to the overlays among the mounts; one takes the place of an option of the same name.
func With(mounts []imageservice.Mount, options []string) []imageservice.Mount {
	if len(options) == 0 {
		return mounts
	}
	name := func(o string) string { key, _, _ := strings.Cut(o, "="); return key }
	out := slices.Clone(mounts)
	for i, m := range out {
		if m.Type != "overlay" {
			continue
		}
		kept := slices.DeleteFunc(slices.Clone(m.Options), func(have string) bool {
			return slices.ContainsFunc(options, func(o string) bool { return name(o) == name(have) })
		})
		out[i].Options = append(slices.Clone(options), kept...)
	}
	return out
}

func mountOne(m imageservice.Mount, target string) error {
	flag, data := parse(m.Options)
	if m.Type == "overlay" && len(data) >= os.Getpagesize() {
		return overlay(m.Options, target)
	}
	if err := unix.Mount(m.Source, target, m.Type, flag, data); err != nil {
		return fmt.Errorf("mount %s at %s: %w", m.Type, target, err)
	}
	if flag&unix.MS_BIND != 0 && flag&unix.MS_RDONLY != 0 {
		if err := unix.Mount("", target, "", flag|unix.MS_REMOUNT, ""); err != nil {
			return fmt.Errorf("make the mount at %s read-only: %w", target, err)
		}
	}
	return nil
}

func parse(options []string) (flag uintptr, data string) {
	var rest []string
	for _, o := range options {
		if f, ok := flags[o]; ok {
			flag |= f
			continue
		}
		rest = append(rest, o)
	}
	return flag, strings.Join(rest, ",")
}

// overlay mounts by the new mount API, whose options are not bounded by a page: one lowerdir+ per layer (Linux 6.5).
func overlay(options []string, target string) error {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open an overlay: %w", err)
	}
	defer unix.Close(fsfd)
	attr := 0
	for _, o := range options {
		key, value, hasValue := strings.Cut(o, "=")
		switch {
		case o == "ro":
			attr |= unix.MOUNT_ATTR_RDONLY
		case o == "rw":
		case key == "lowerdir":
			err = layers(fsfd, value)
		case hasValue:
			err = unix.FsconfigSetString(fsfd, key, strings.Trim(value, `"`))
		default:
			err = unix.FsconfigSetFlag(fsfd, key)
		}
		if err != nil {
			return fmt.Errorf("overlay option %s: %w", key, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return fmt.Errorf("make the overlay for %s: %w", target, err)
	}
	mfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, attr)
	if err != nil {
		return fmt.Errorf("make the overlay for %s: %w", target, err)
	}
	defer unix.Close(mfd)
	if err := unix.MoveMount(mfd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount the overlay at %s: %w", target, err)
	}
	return nil
}

func layers(fsfd int, list string) error {
	for dir := range strings.SplitSeq(list, ":") {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", dir); err != nil {
			return err
		}
	}
	return nil
}

// Unmount detaches whatever Mount or MountMapped has mounted for target, and removes the empty directory. A target that
// is gone is fine.
func Unmount(target string) error {
	return errors.Join(unmount(target), unmount(lowers(target)))
}

func unmount(target string) error {
	for {
		err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove a mount point: %w", err)
	}
	return nil
}

// Open opens a file for reading as the container would see it: links are followed, but never out of root.
func Open(root, path string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
