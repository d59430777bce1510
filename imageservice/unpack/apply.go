package unpack

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
)

// xattrPrefix is that of extended attributes among PAX records.
const xattrPrefix = "SCHILY.xattr."

// early is the size from which a file is handed to the disk as soon as it is written, so that the sync at the end of a
// pull finds little left to do.
const early = 256 << 10

// apply makes the entries of a stream (OCI image specification 1.1, layer.md, "Applying Changesets").
func (l *layer) apply(ctx context.Context, stream io.Reader) error {
	tr := tar.NewReader(stream)
	body := readFunc(func(p []byte) (int, error) {
		// A hole of a sparse file may be long, and reads nothing from the stream that could fail.
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		return tr.Read(p)
	})
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return l.stamp()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if err := l.entry(h, body); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

// entry makes one entry. Those of the root itself are not an image's to say.
func (l *layer) entry(h *tar.Header, body io.Reader) error {
	name := clean(h.Name)
	if name == "" || h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	l.note(name, h)
	l.tree.breathe()
	dir, err := l.tree.need(path.Dir(name))
	if err != nil {
		return err
	}
	e := entry{l.tree, h, name, dir, path.Base(name)}
	if strings.HasPrefix(e.base, whiteoutPrefix) {
		return l.whiteout(e)
	}
	if err := e.make(body); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		l.dirs = append(l.dirs, dirTime{name, times(h)})
	}
	return nil
}

// dirTime is the time of a directory, which is set at the end: each file made in it changes it.
type dirTime struct {
	name  string
	times []unix.Timespec
}

// stamp sets the times of directories, those inside before those around.
func (l *layer) stamp() error {
	for i := len(l.dirs) - 1; i >= 0; i-- {
		d := l.dirs[i]
		l.tree.breathe()
		dir, err := l.tree.find(path.Dir(d.name))
		if err == nil {
			err = unix.UtimesNanoAt(dir, path.Base(d.name), d.times, unix.AT_SYMLINK_NOFOLLOW)
		}
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) { // removed by a later entry
			return fmt.Errorf("%q: set time: %w", d.name, err)
		}
	}
	return nil
}

// entry is one entry of a layer on its way into the tree.
type entry struct {
	tree *tree
	h    *tar.Header
	name string
	dir  int // where it goes
	base string
}

// make makes the entry in place of what has its name, except that directories are kept.
func (e entry) make(body io.Reader) error {
	err := e.create(body)
	if !errors.Is(err, unix.EEXIST) {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(e.dir, e.base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && e.h.Typeflag == tar.TypeDir {
		return e.attributes()
	}
	if err := e.remove(st); err != nil {
		return err
	}
	if e.dir, err = e.tree.need(path.Dir(e.name)); err != nil {
		return err
	}
	return e.create(body)
}

// remove takes what is there away.
func (e entry) remove(st unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return unix.Unlinkat(e.dir, e.base, 0)
	}
	err := os.RemoveAll(at(e.dir, e.base))
	e.tree.forget() // what was below is gone
	return err
}

// create makes the entry where nothing is; EEXIST otherwise.
func (e entry) create(body io.Reader) error {
	h := e.h
	var err error
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		return e.file(body)
	case tar.TypeDir:
		err = unix.Mkdirat(e.dir, e.base, mode(h))
	case tar.TypeSymlink:
		err = unix.Symlinkat(h.Linkname, e.dir, e.base)
	case tar.TypeLink:
		err = e.link()
	case tar.TypeChar:
		err = unix.Mknodat(e.dir, e.base, unix.S_IFCHR|mode(h), int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeBlock:
		err = unix.Mknodat(e.dir, e.base, unix.S_IFBLK|mode(h), int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor))))
	case tar.TypeFifo:
		err = unix.Mknodat(e.dir, e.base, unix.S_IFIFO|mode(h), 0)
	default:
		return fmt.Errorf("entries of type %q are unknown: %w", h.Typeflag, imageservice.ErrCorrupt)
	}
	if err != nil {
		return err
	}
	return e.attributes()
}

// file makes a regular file.
func (e entry) file(body io.Reader) error {
	fd, err := unix.Openat(e.dir, e.base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode(e.h)&0o777)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), e.name)
	buf := make([]byte, min(max(e.h.Size, 512), copyBuffer))
	var n int64
	if sparse(e.h) {
		n, err = copySparse(f, body, buf, e.h.Size)
	} else {
		n, err = io.CopyBuffer(onlyWriter{f}, body, buf)
	}
	if err == nil && n >= early {
		// Best effort: the sync at the end is what counts.
		_ = unix.SyncFileRange(fd, 0, 0, unix.SYNC_FILE_RANGE_WRITE)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return e.attributes()
}

const copyBuffer = 256 << 10

// onlyWriter hides the methods that would go around the buffer.
type onlyWriter struct{ io.Writer }

// readFunc is a reader.
type readFunc func([]byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// maxSparse bounds files with holes: a few bytes of a layer can describe one of any size.
const maxSparse = 64 << 30

func sparse(h *tar.Header) bool {
	return h.Typeflag == tar.TypeGNUSparse || h.PAXRecords["GNU.sparse.major"] != "" || h.PAXRecords["GNU.sparse.map"] != "" || h.PAXRecords["GNU.sparse.size"] != ""
}

// copySparse keeps holes holes.
func copySparse(f *os.File, body io.Reader, buf []byte, size int64) (int64, error) {
	if size > maxSparse {
		return 0, fmt.Errorf("a file with holes of %d bytes, at most %d are taken: %w", size, int64(maxSparse), imageservice.ErrCorrupt)
	}
	var n int64
	hole := make([]byte, len(buf))
	for {
		got, err := io.ReadFull(body, buf)
		if got > 0 && !bytes.Equal(buf[:got], hole[:got]) {
			if _, err := f.WriteAt(buf[:got], n); err != nil {
				return n, err
			}
		}
		n += int64(got)
		if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) && n == size {
			return n, f.Truncate(n)
		}
		if err != nil {
			return n, err
		}
	}
}

// link gives a file of this layer another name. The last element of the target is not followed.
func (e entry) link() error {
	target := clean(e.h.Linkname)
	if target == "" {
		return fmt.Errorf("link to the root: %w", imageservice.ErrCorrupt)
	}
	dir, err := e.tree.find(path.Dir(target))
	if err == nil {
		err = unix.Linkat(dir, path.Base(target), e.dir, e.base, 0)
	}
	if errors.Is(err, unix.EEXIST) {
		return err
	}
	if err != nil {
		return fmt.Errorf("link to %q: %w", e.h.Linkname, err)
	}
	return nil
}

// attributes sets owner, extended attributes, mode and times, in this order: each of the first may change the later.
func (e entry) attributes() error {
	h := e.h
	var st unix.Stat_t
	err := unix.Fchownat(e.dir, e.base, h.Uid, h.Gid, unix.AT_SYMLINK_NOFOLLOW)
	if err == nil {
		err = unix.Fstatat(e.dir, e.base, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("set owner %d:%d: %w", h.Uid, h.Gid, err)
	}
	if err := e.xattrs(st.Mode & unix.S_IFMT); err != nil {
		return err
	}
	// A hard link may be one to a symbolic link, which has no mode.
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		if err := unix.Fchmodat(e.dir, e.base, mode(h), 0); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	if err := unix.UtimesNanoAt(e.dir, e.base, times(h), unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("set time: %w", err)
	}
	return nil
}

func (e entry) xattrs(kind uint32) error {
	for key, value := range e.h.PAXRecords {
		name, ok := strings.CutPrefix(key, xattrPrefix)
		if !ok || ofOverlay(name) {
			continue
		}
		err := unix.Lsetxattr(at(e.dir, e.base), name, []byte(value), 0)
		switch {
		case err == nil, errors.Is(err, unix.ENOTSUP): // the file system has none
		case errors.Is(err, unix.EPERM) && strings.HasPrefix(name, "user.") && kind != unix.S_IFREG && kind != unix.S_IFDIR:
			// Only files and directories can have these (xattr(7)).
		default:
			return fmt.Errorf("set extended attribute %q: %w", name, err)
		}
	}
	return nil
}

// ofOverlay reports whether an attribute speaks to overlayfs, which is not an image's to do.
func ofOverlay(name string) bool {
	return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
}

func mode(h *tar.Header) uint32 { return uint32(h.Mode) & 0o7777 }

// times are access and modification time, as far as file systems can hold them.
func times(h *tar.Header) []unix.Timespec {
	access := h.AccessTime
	if access.Before(h.ModTime) {
		access = h.ModTime
	}
	return []unix.Timespec{timespec(access), timespec(h.ModTime)}
}

func timespec(t time.Time) unix.Timespec {
	if t.Unix() < 0 || t.Unix() > 1<<34 {
		return unix.Timespec{}
	}
	return unix.NsecToTimespec(t.UnixNano())
}
