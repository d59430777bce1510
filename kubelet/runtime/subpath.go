package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// subPath is one mount of a part of a volume. A container with write access to the volume may change its directories
// while we look, for instance put a symbolic link to / there. So the part is opened once, by a walk that cannot leave
// the volume, and what was opened is bound to a place of our own that no container can change; the runtime mounts that.
type subPath struct {
	podDir, container, volume string
	index                     int
}

const subPathsDir = "volume-subpaths"

// place is where the part is bound: upstream's place, so that either kubelet finds what the other left.
func (s subPath) place() string {
	return filepath.Join(s.podDir, subPathsDir, s.volume, s.container, strconv.Itoa(s.index))
}

func (s subPath) prepare(volume, sub string) (string, error) {
	if filepath.IsAbs(sub) || slices.Contains(strings.Split(sub, "/"), "..") {
		return "", fmt.Errorf("subPath %q must be relative and without '..'", sub)
	}
	root, err := unix.Open(volume, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", fmt.Errorf("open volume: %w", err)
	}
	defer unix.Close(root)
	fd, err := openBeneath(root, sub)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	target := s.place()
	if err := makeTarget(fd, target); err != nil {
		return "", err
	}
	if mounted(target) {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			return "", fmt.Errorf("unmount earlier sub-path: %w", err)
		}
	}
	if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind sub-path: %w", err)
	}
	return target, nil
}

// openBeneath opens sub below root, making directories that are missing. Links are followed as long as they stay below.
func openBeneath(root int, sub string) (int, error) {
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(root, sub, how)
	if !errors.Is(err, unix.ENOENT) {
		return fd, wrapOpen(err)
	}
	mode := uint32(0o750)
	var st unix.Stat_t
	if unix.Fstat(root, &st) == nil {
		mode = st.Mode & 0o7777
	}
	at := "."
	for _, part := range strings.Split(filepath.Clean(sub), "/") {
		dir, err := unix.Openat2(root, at, how)
		if err != nil {
			return -1, wrapOpen(err)
		}
		err = unix.Mkdirat(dir, part, mode)
		unix.Close(dir)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return -1, fmt.Errorf("create sub-path directory: %w", err)
		}
		at = filepath.Join(at, part)
	}
	fd, err = unix.Openat2(root, sub, how)
	return fd, wrapOpen(err)
}

func wrapOpen(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("open sub-path: %w", err)
}

// makeTarget makes an empty file or directory to bind on, like what is bound.
func makeTarget(fd int, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("stat sub-path: %w", err)
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fmt.Errorf("make sub-path place: %w", err)
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o640)
	if err != nil {
		return fmt.Errorf("make sub-path place: %w", err)
	}
	return f.Close()
}

// mounted tells whether something is mounted right at path.
func mounted(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

// RemoveSubPaths unbinds all sub-paths of a pod. It must be done before its volumes are taken away.
func RemoveSubPaths(podDir string) error {
	places, err := filepath.Glob(filepath.Join(podDir, subPathsDir, "*", "*", "*"))
	if err != nil {
		return fmt.Errorf("list sub-paths: %w", err)
	}
	for _, place := range places {
		for mounted(place) {
			if err := unix.Unmount(place, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
				return fmt.Errorf("unmount sub-path %s: %w", place, err)
			}
		}
		if err := os.Remove(place); err != nil {
			return fmt.Errorf("remove sub-path: %w", err)
		}
	}
	return os.RemoveAll(filepath.Join(podDir, subPathsDir))
}
