package volume

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// remove unmounts whatever is mounted below dir and deletes dir. It deletes nothing while a mount remains there: what
// is mounted may be a directory of the host.
func remove(dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	dir, err := filepath.EvalSymlinks(dir) // mountinfo has real paths
	if err != nil {
		return err
	}
	// Unmounting one may reveal another beneath it, hence the second look. More than a few rounds means that
	// someone mounts at the same time.
	for range 5 {
		mounts, err := mountsBelow(dir)
		if err != nil {
			return err
		}
		if len(mounts) == 0 {
			return os.RemoveAll(dir)
		}
		for _, path := range mounts {
			if err := Unmount(path); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("mounts keep appearing below %s; nothing was deleted", dir)
}

// Unmount detaches what is mounted at path. A path where nothing is mounted, or that does not exist, is no error. The
// mount is gone from the node at once, and from memory as soon as its last user is: containers of the pod are gone, but
// the kernel may still be taking their namespaces apart.
func Unmount(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("unmount %s: %w", path, err)
}

// mountsBelow lists the mount points at and below dir, deepest first.
func mountsBelow(dir string) ([]string, error) {
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	scan := bufio.NewScanner(f)
	scan.Buffer(nil, 1<<20)
	for scan.Scan() {
		fields := strings.Fields(scan.Text())
		if len(fields) < 5 {
			continue
		}
		path := unescape(fields[4])
		if path == dir || strings.HasPrefix(path, dir+"/") {
			found = append(found, path)
		}
	}
	if err := scan.Err(); err != nil {
		return nil, fmt.Errorf("read /proc/thread-self/mountinfo: %w", err)
	}
	// Later lines are mounted over earlier ones, so the order of the file, reversed, is safe; a child's line never
	// precedes its parent's place in the tree for equal paths.
	slices.Reverse(found)
	slices.SortStableFunc(found, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return found, nil
}

// unescape undoes the octal escapes of mountinfo: space, tab, newline and backslash (proc_pid_mountinfo(5)).
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// IsMountPoint reports whether something is mounted at dir, which must be a directory: its device differs from its
// parent's. A bind mount within one file system is not seen.
func IsMountPoint(dir string) (bool, error) {
	var here, up unix.Stat_t
	if err := unix.Lstat(dir, &here); err != nil {
		return false, fmt.Errorf("stat %s: %w", dir, err)
	}
	if err := unix.Lstat(filepath.Dir(dir), &up); err != nil {
		return false, fmt.Errorf("stat %s: %w", filepath.Dir(dir), err)
	}
	return here.Dev != up.Dev, nil
}

// MountTmpfs mounts a file system in memory at dir, which it creates, unless there is one. size is in bytes, 0 for the
// kernel's default of half the memory. Where the kernel can (Linux 6.4), its pages are never swapped out.
func MountTmpfs(dir string, size int64) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	if mounted, err := IsMountPoint(dir); err != nil || mounted {
		return err
	}
	options := "mode=0777"
	if size > 0 {
		options += ",size=" + strconv.FormatInt(size, 10)
	}
	err := unix.Mount("tmpfs", dir, "tmpfs", 0, options+",noswap")
	if err != nil {
		err = unix.Mount("tmpfs", dir, "tmpfs", 0, options)
	}
	if err != nil {
		return fmt.Errorf("mount tmpfs at %s: %w", dir, err)
	}
	return nil
}

// OwnRoot gives dir the mode 0777 and, where group is not nil, that group and the setgid bit, so that files made in it
// belong to the group too.
func OwnRoot(dir string, group *int64) error {
	mode := uint32(0o777)
	if group != nil {
		if err := os.Lchown(dir, -1, int(*group)); err != nil {
			return fmt.Errorf("give %s to group %d: %w", dir, *group, err)
		}
		mode |= unix.S_ISGID
	}
	if err := unix.Chmod(dir, mode); err != nil {
		return fmt.Errorf("chmod %s: %w", dir, err)
	}
	return nil
}
