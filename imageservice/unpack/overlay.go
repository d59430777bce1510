package unpack

import (
	"archive/tar"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	continuity "github.com/containerd/continuity/fs"
	"golang.org/x/sys/unix"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
	opaqueXattr    = "trusted.overlay.opaque"
)

// whiteout makes what stands for a whiteout entry at path. It returns true for every other entry. The path is
// inside the layer's directory: archive.Apply resolved it.
func (l *layer) whiteout(h *tar.Header, path string) (bool, error) {
	base, dir := filepath.Base(path), filepath.Dir(path)
	switch {
	case base == whiteoutOpaque:
		return false, opaque(dir)
	case strings.HasPrefix(base, whiteoutMeta): // bookkeeping of aufs
		return false, nil
	case !strings.HasPrefix(base, whiteoutPrefix):
		return true, nil
	}
	target := filepath.Join(dir, strings.TrimPrefix(base, whiteoutPrefix))
	l.white[target] = true
	if _, err := os.Lstat(target); err == nil {
		return false, nil // this layer made it already; finish hides what is below
	}
	if err := unix.Mknod(target, unix.S_IFCHR, 0); err != nil {
		return false, fmt.Errorf("make whiteout: %w", err)
	}
	return false, os.Lchown(target, h.Uid, h.Gid)
}

// finish makes opaque each directory of this layer whose name it also whites out: the lower one is gone, so the two
// must not be merged.
func (l *layer) finish() error {
	for path := range l.white {
		fi, err := os.Lstat(path)
		if errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
			continue
		} else if err != nil {
			return err
		}
		if err := opaque(path); err != nil {
			return err
		}
	}
	return nil
}

func opaque(dir string) error {
	if err := unix.Setxattr(dir, opaqueXattr, []byte{'y'}, 0); err != nil {
		return fmt.Errorf("make directory opaque: %w", err)
	}
	return nil
}

// Adopt gives the implied directories of the layer at dir the mode, owner, times and attributes that they have in
// the nearest of the layers below, lowers, which is ordered from the nearest down.
func Adopt(dir string, implied, lowers []string) error {
	for _, name := range implied {
		if err := adopt(dir, name, lowers); err != nil {
			return fmt.Errorf("adopt attributes of /%s: %w", name, err)
		}
	}
	return nil
}

func adopt(dir, name string, lowers []string) error {
	target, fi, err := lookup(dir, name)
	if err != nil || fi == nil || !fi.IsDir() {
		return err // a link of this layer led elsewhere: nothing was implied here
	}
	for _, lower := range lowers {
		source, fi, err := lookup(lower, name)
		if err != nil {
			return err
		}
		if fi == nil {
			continue
		}
		if !fi.IsDir() {
			return nil // replaced, nothing to inherit
		}
		return copyAttributes(target, source, fi)
	}
	return nil
}

// lookup finds name below root, never leaving it; a nil FileInfo means there is none.
func lookup(root, name string) (string, os.FileInfo, error) {
	parent, err := continuity.RootPath(root, filepath.Dir(name))
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(parent, filepath.Base(name))
	fi, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return "", nil, nil
	}
	return path, fi, err
}

// copyAttributes copies from one directory to another; neither is a link.
func copyAttributes(target, source string, fi os.FileInfo) error {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	if err := os.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := os.Chmod(target, fi.Mode()&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	if err := copyXattrs(target, source); err != nil {
		return err
	}
	times := []unix.Timespec{{Sec: st.Atim.Sec, Nsec: st.Atim.Nsec}, {Sec: st.Mtim.Sec, Nsec: st.Mtim.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, target, times, unix.AT_SYMLINK_NOFOLLOW)
}

func copyXattrs(target, source string) error {
	names := make([]byte, 64<<10)
	n, err := unix.Llistxattr(source, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	} else if err != nil {
		return err
	}
	value := make([]byte, 64<<10)
	for _, name := range strings.Split(string(names[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		n, err := unix.Lgetxattr(source, name, value)
		if err != nil {
			return err
		}
		if err := unix.Lsetxattr(target, name, value[:n], 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
			return err
		}
	}
	return nil
}
