package unpack

import (
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
	opaqueXattr    = "trusted.overlay.opaque"
)

// whiteout makes what stands for a whiteout entry.
func (l *layer) whiteout(e entry) error {
	switch {
	case e.base == whiteoutOpaque:
		return opaque(at(e.dir, "."))
	case strings.HasPrefix(e.base, whiteoutMeta): // bookkeeping of aufs
		return nil
	}
	base := strings.TrimPrefix(e.base, whiteoutPrefix)
	if base == "" || base == "." || base == ".." {
		return fmt.Errorf("whiteout of %q: %w", base, imageservice.ErrCorrupt)
	}
	l.white[path.Join(path.Dir(e.name), base)] = true
	err := unix.Mknodat(e.dir, base, unix.S_IFCHR, 0)
	if errors.Is(err, unix.EEXIST) {
		return nil // this layer made it already; finish hides what is below
	}
	if err != nil {
		return fmt.Errorf("make whiteout: %w", err)
	}
	return unix.Fchownat(e.dir, base, e.h.Uid, e.h.Gid, unix.AT_SYMLINK_NOFOLLOW)
}

// finish makes opaque each directory of this layer whose name it also whites out: the lower one is gone, so the two
// must not be merged.
func (l *layer) finish() error {
	for name := range l.white {
		l.tree.breathe()
		dir, err := l.tree.find(path.Dir(name))
		var st unix.Stat_t
		if err == nil {
			err = unix.Fstatat(dir, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
		}
		switch {
		case missing(err), err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR:
			continue
		case err != nil:
			return err
		}
		if err := opaque(at(dir, path.Base(name))); err != nil {
			return err
		}
	}
	return nil
}

func missing(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

func opaque(dir string) error {
	if err := unix.Lsetxattr(dir, opaqueXattr, []byte{'y'}, 0); err != nil {
		return fmt.Errorf("make directory opaque: %w", err)
	}
	return nil
}

// Adopt gives the implied directories of the layer at dir the mode, owner, times and attributes that they have in
// the nearest of the layers below, lowers, which is ordered from the nearest down.
func Adopt(dir string, implied, lowers []string) error {
	target, err := openTree(dir)
	if err != nil {
		return err
	}
	defer target.close()
	var below []*tree
	defer func() {
		for _, t := range below {
			t.close()
		}
	}()
	for _, lower := range lowers {
		t, err := openTree(lower)
		if err != nil {
			return err
		}
		below = append(below, t)
	}
	for _, name := range implied {
		for _, t := range append(below, target) {
			t.breathe()
		}
		if err := adopt(target, name, below); err != nil {
			return fmt.Errorf("adopt attributes of /%s: %w", name, err)
		}
	}
	return nil
}

func adopt(target *tree, name string, lowers []*tree) error {
	to, st, err := target.lookup(name)
	if err != nil || st == nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return err // a link of this layer led elsewhere: nothing was implied here
	}
	for _, lower := range lowers {
		from, st, err := lower.lookup(name)
		if err != nil {
			return err
		}
		if st == nil {
			continue
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return nil // replaced, nothing to inherit
		}
		return copyAttributes(to, from, st)
	}
	return nil
}

// lookup finds name in the tree, not following it itself; nil means there is none.
func (t *tree) lookup(name string) (string, *unix.Stat_t, error) {
	var st unix.Stat_t
	dir, err := t.find(path.Dir(name))
	if err == nil {
		err = unix.Fstatat(dir, path.Base(name), &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if missing(err) {
		return "", nil, nil
	}
	return at(dir, path.Base(name)), &st, err
}

// copyAttributes copies from one directory to another; neither is a link.
func copyAttributes(target, source string, st *unix.Stat_t) error {
	if err := unix.Lchown(target, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := unix.Chmod(target, st.Mode&0o7777); err != nil {
		return err
	}
	if err := copyXattrs(target, source); err != nil {
		return err
	}
	return unix.UtimesNanoAt(unix.AT_FDCWD, target, []unix.Timespec{st.Atim, st.Mtim}, unix.AT_SYMLINK_NOFOLLOW)
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
