package unpack

import (
	"errors"
	"fmt"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/imageservice"
)

// tree is the directory of a layer. Every name is resolved by the kernel with openat2(2) and RESOLVE_IN_ROOT: whatever
// links and dots a name leads through, it ends inside. Files are made relative to the directory that was found.
type tree struct {
	root int
	// open are directories that were found, by name. They stay open until they are forgotten: between two entries when there
	// are many, and when a directory was removed, since the names may then mean something else.
	open map[string]int
}

// maxOpen bounds the directories that are kept open from one entry to the next.
const maxOpen = 32

// errTooDeep ends chains of links that lead nowhere.
var errTooDeep = fmt.Errorf("too many links: %w", imageservice.ErrCorrupt)

func openTree(dir string) (*tree, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	return &tree{root: fd, open: map[string]int{}}, nil
}

func (t *tree) close() {
	t.forget()
	unix.Close(t.root)
}

// breathe forgets directories when many are open. What find returned before is no longer good.
func (t *tree) breathe() {
	if len(t.open) >= maxOpen {
		t.forget()
	}
}

// forget closes the directories that were kept.
func (t *tree) forget() {
	for name, fd := range t.open {
		unix.Close(fd)
		delete(t.open, name)
	}
}

// find opens a directory, following links inside the tree.
func (t *tree) find(dir string) (int, error) {
	if dir == "." || dir == "" {
		return t.root, nil
	}
	if fd, ok := t.open[dir]; ok {
		return fd, nil
	}
	fd, err := t.resolve(dir)
	switch {
	case errors.Is(err, unix.ENOSYS):
		return -1, fmt.Errorf("unpacking layers needs openat2, Linux 5.6 or later: %w", err)
	case err != nil:
		return -1, fmt.Errorf("open directory %q: %w", dir, err)
	}
	t.open[dir] = fd
	return fd, nil
}

// maxTries is how often a name is resolved anew. The kernel gives up with EAGAIN when anything on the machine is renamed or
// mounted while it follows "..", as it then cannot tell whether that led out (openat2(2)).
const maxTries = 10_000

func (t *tree) resolve(dir string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for try := 1; ; try++ {
		fd, err := unix.Openat2(t.root, dir, &how)
		if try < maxTries && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)) {
			continue
		}
		return fd, err
	}
}

// need is find that makes what is missing, with the mode 0755.
func (t *tree) need(dir string) (int, error) { return t.makeAll(dir, 0) }

// maxLinks is how many links without a target are followed by making the target.
const maxLinks = 40

func (t *tree) makeAll(dir string, links int) (int, error) {
	fd, err := t.find(dir)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	parent, err := t.makeAll(path.Dir(dir), links)
	if err != nil {
		return -1, err
	}
	base := path.Base(dir)
	err = unix.Mkdirat(parent, base, 0o755)
	switch {
	case errors.Is(err, unix.EEXIST): // a link to what is not there
		if links++; links > maxLinks {
			return -1, errTooDeep
		}
		to, err := readlink(parent, base)
		if err != nil {
			return -1, fmt.Errorf("follow %q: %w", dir, err)
		}
		if !path.IsAbs(to) {
			to = path.Join("/", path.Dir(dir), to)
		}
		if _, err := t.makeAll(clean(to), links); err != nil {
			return -1, err
		}
	case err != nil:
		return -1, fmt.Errorf("make directory %q: %w", dir, err)
	default:
		// The umask must not decide what containers see.
		if err := unix.Fchmodat(parent, base, 0o755, 0); err != nil {
			return -1, fmt.Errorf("make directory %q: %w", dir, err)
		}
	}
	return t.find(dir)
}

func readlink(dir int, base string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(dir, base, buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// clean makes a name relative to the root of the tree. The root itself is "".
func clean(name string) string {
	return path.Clean("/" + name)[1:]
}

// at is a path to an entry of an open directory, for system calls that take no directory. The entry is not followed by
// those that do not follow links.
func at(dir int, base string) string {
	return "/proc/self/fd/" + strconv.Itoa(dir) + "/" + base
}
