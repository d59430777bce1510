package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
)

// SubPath is one volumeMount with a subPath.
type SubPath struct {
	Pod       types.UID
	Volume    string
	Container string
	// Index is the place of the mount in the container's volumeMounts.
	Index int
	// VolumePath is the volume on the host, as Setup returned it.
	VolumePath string
	// Path is the subPath, with variables expanded.
	Path string
}

// SubPath returns a host path that shows the file or directory at s.Path inside the volume, and nothing else, whatever
// the pod's containers do to the volume in the meantime. A missing directory is made.
//
// A container that may write the volume may put a symbolic link in the place of any directory at any moment. So the
// path is opened once, by the kernel, under the rule that no step leaves the volume (openat2, RESOLVE_BENEATH); what
// was opened is mounted by its descriptor at a place that only the kubelet can reach; and the runtime is given that
// place. Links inside the volume are followed, which the ..data links of configMap volumes need.
func (m *Manager) SubPath(ctx context.Context, s SubPath) (string, error) {
	if filepath.IsAbs(s.Path) || strings.Contains("/"+s.Path+"/", "/../") {
		return "", fmt.Errorf("subPath %q of volume %q must be relative and without \"..\"", s.Path, s.Volume)
	}
	state, err := m.acquire(ctx, s.Pod)
	if err != nil {
		return "", err
	}
	defer m.release(state)
	source, err := openBeneath(s.VolumePath, s.Path)
	if errors.Is(err, unix.EXDEV) {
		return "", fmt.Errorf("subPath %q of volume %q leads out of the volume by a symbolic link: not allowed", s.Path, s.Volume)
	}
	if err != nil {
		return "", fmt.Errorf("open subPath %q of volume %q: %w", s.Path, s.Volume, err)
	}
	defer unix.Close(source)
	target := filepath.Join(m.PodDir(s.Pod), "volume-subpaths", s.Volume, s.Container, strconv.Itoa(s.Index))
	if err := bind(source, target); err != nil {
		return "", fmt.Errorf("mount subPath %q of volume %q: %w", s.Path, s.Volume, err)
	}
	return target, nil
}

// openBeneath opens path inside root without ever leaving root, and makes it a directory where nothing is.
func openBeneath(root, path string) (int, error) {
	base, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(base)
	fd, err := openat2(base, path)
	if !errors.Is(err, unix.ENOENT) {
		return fd, err
	}
	if err := makeBeneath(base, path); err != nil {
		return -1, err
	}
	return openat2(base, path)
}

// makeBeneath makes the missing directories of path, each with the mode of the volume's root.
func makeBeneath(base int, path string) error {
	var st unix.Stat_t
	if err := unix.Fstat(base, &st); err != nil {
		return err
	}
	steps := strings.Split(filepath.Clean(path), "/")
	for i, name := range steps {
		if fd, err := openat2(base, filepath.Join(steps[:i+1]...)); err == nil {
			unix.Close(fd)
			continue
		}
		parent, err := openat2(base, filepath.Join(append([]string{"."}, steps[:i]...)...))
		if err != nil {
			return err
		}
		err = makeAt(parent, name, st.Mode&0o7777)
		unix.Close(parent)
		if err != nil {
			return err
		}
	}
	return nil
}

func makeAt(parent int, name string, mode uint32) error {
	if err := unix.Mkdirat(parent, name, mode); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Fchmod(fd, mode) // the umask has taken bits away
}

func openat2(dir int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS,
	}
	for {
		fd, err := unix.Openat2(dir, path, &how)
		// EAGAIN: something was renamed meanwhile and the kernel could not be sure; ask again.
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// bind mounts what source has open at target. A mount of the same file from before is kept, another one replaced.
func bind(source int, target string) error {
	var want unix.Stat_t
	if err := unix.Fstat(source, &want); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	var have unix.Stat_t
	if err := unix.Lstat(target, &have); err == nil {
		if have.Dev == want.Dev && have.Ino == want.Ino {
			return nil
		}
		if err := remove(target); err != nil {
			return err
		}
	}
	if err := makePoint(target, want.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	tree, err := unix.OpenTree(source, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("clone the mount: %w", err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach at %s: %w", target, err)
	}
	return nil
}

func makePoint(path string, dir bool) error {
	if dir {
		return os.Mkdir(path, 0o750)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	return f.Close()
}
