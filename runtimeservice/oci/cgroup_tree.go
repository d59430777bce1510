package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

// On cgroup v1 a container's /sys/fs/cgroup is a tmpfs with one bind mount per hierarchy, 11 or so. libcontainer makes
// them in the container's init, each found, mounted, looked up again and remounted through /proc: a sixth of all that
// the init does. plantCgroups builds the same out of sight, by file descriptors, and the init binds it as a whole.
//
// It needs Linux 6.15, which mounts on mounts that are attached nowhere. Where it fails, libcontainer does it.

// treeData marks, in the data of a bind mount, which the kernel ignores, what the mount stands for, and its flags.
const treeData = "skiff-cgroup-v1="

// wantsTree tells whether the container has a mount of cgroup v1 hierarchies that a tree can be built for.
func wantsTree(config *configs.Config) bool {
	if cgroupMount(config) < 0 || cgroups.IsCgroup2UnifiedMode() || config.Namespaces.Contains(configs.NEWCGROUP) || config.Namespaces.Contains(configs.NEWUSER) {
		return false
	}
	return !config.Cgroups.Systemd && filepath.IsAbs(config.Cgroups.Path)
}

// growCgroups builds the tree, where one is wanted, and makes the container's cgroups.
func growCgroups(config *configs.Config) (*os.File, error) {
	if !wantsTree(config) {
		return nil, nil
	}
	branches, err := cgroupBranches(config.Cgroups)
	if err != nil {
		return nil, err
	}
	return buildTree(branches, config.Mounts[cgroupMount(config)])
}

func cgroupMount(config *configs.Config) int {
	return slices.IndexFunc(config.Mounts, func(m *configs.Mount) bool { return m.Device == "cgroup" })
}

// plantCgroups replaces the mount by the bind mount of such a tree, which is closed when the container has been created.
func plantCgroups(config *configs.Config) (*os.File, error) {
	tree, err := growCgroups(config)
	if tree == nil || err != nil {
		return nil, err
	}
	at := cgroupMount(config)
	m := config.Mounts[at]
	config.Mounts[at] = &configs.Mount{
		Device:           "bind",
		Source:           fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), tree.Fd()),
		Destination:      m.Destination,
		Flags:            unix.MS_BIND | unix.MS_REC,
		PropagationFlags: m.PropagationFlags,
		Data:             treeData + strconv.Itoa(m.Flags),
	}
	return tree, nil
}

// load is libcontainer.Load of a container whose configuration says what was asked for, not how it was mounted: a
// checkpoint, for one, goes by it.
func load(root, id string) (*libcontainer.Container, error) {
	c, err := libcontainer.Load(root, id)
	if err != nil {
		return nil, err
	}
	config := c.Config()
	return c, unplantCgroups(config.Mounts)
}

// unplantCgroups puts back what plantCgroups has replaced.
func unplantCgroups(mounts []*configs.Mount) error {
	for i, m := range mounts {
		flags, ok := strings.CutPrefix(m.Data, treeData)
		if !ok {
			continue
		}
		n, err := strconv.Atoi(flags)
		if err != nil {
			return fmt.Errorf("mount %s: data %q: %w", m.Destination, m.Data, err)
		}
		mounts[i] = &configs.Mount{
			Device: "cgroup", Source: "cgroup", Destination: m.Destination, Flags: n, PropagationFlags: m.PropagationFlags,
		}
	}
	return nil
}

// branch is one hierarchy in the tree.
type branch struct {
	name string   // of its directory
	dir  string   // the container's cgroup
	also []string // symbolic links: cpu and cpuacct to cpu,cpuacct
}

// managed are the hierarchies in which libcontainer gives a container a cgroup of its own. In the others it is in this
// process's.
var managed = map[string]bool{
	"cpuset": true, "devices": true, "memory": true, "cpu": true, "cpuacct": true, "pids": true, "blkio": true, "hugetlb": true,
	"net_cls": true, "net_prio": true, "perf_event": true, "freezer": true, "rdma": true, "systemd": true,
}

// hierarchies are those of the host, which stay the same while it runs.
var hierarchies = sync.OnceValues(func() ([]cgroups.Mount, error) { return cgroups.GetCgroupMounts(false) })

// cgroupBranches makes the container's cgroups, empty as they are, and says where they are. libcontainer sets them up.
func cgroupBranches(config *cgroups.Cgroup) ([]branch, error) {
	mounts, err := hierarchies()
	if err != nil {
		return nil, err
	}
	var out []branch
	for _, mount := range mounts {
		b := branch{name: filepath.Base(mount.Mountpoint)}
		if managed[mount.Subsystems[0]] && mount.Root == "/" {
			b.dir = filepath.Join(mount.Mountpoint, config.Path)
			err = os.MkdirAll(b.dir, 0o755)
		} else {
			b.dir, err = ownCgroup(mount)
		}
		if err != nil {
			return nil, err
		}
		if strings.Contains(b.name, ",") {
			b.also = strings.Split(b.name, ",")
		}
		out = append(out, b)
	}
	return out, nil
}

func ownCgroup(mount cgroups.Mount) (string, error) {
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	mine, err := mount.GetOwnCgroup(own)
	if err != nil {
		return "", err
	}
	below, err := filepath.Rel(mount.Root, mine)
	return filepath.Join(mount.Mountpoint, below), err
}

// buildTree makes the tmpfs and mounts the branches on it, with the flags that the container's mount asks for.
func buildTree(branches []branch, m *configs.Mount) (*os.File, error) {
	root, err := newTmpfs()
	if err != nil {
		return nil, err
	}
	for _, b := range branches {
		if err := mountBranch(int(root.Fd()), b, attributes(m.Flags)); err != nil {
			root.Close()
			return nil, fmt.Errorf("mount cgroup %s: %w", b.name, err)
		}
	}
	return root, nil
}

func newTmpfs() (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(fs)
	for _, option := range [][2]string{{"source", "tmpfs"}, {"mode", "755"}} {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			return nil, os.NewSyscallError("fsconfig", err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	root, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return os.NewFile(uintptr(root), "cgroup tree"), nil
}

func mountBranch(root int, b branch, attr unix.MountAttr) error {
	if err := unix.Mkdirat(root, b.name, 0o755); err != nil {
		return os.NewSyscallError("mkdir", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, b.dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer unix.Close(fd)
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	if err := unix.MoveMount(fd, "", root, b.name, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	for _, link := range b.also {
		if err := unix.Symlinkat(b.name, root, link); err != nil {
			return os.NewSyscallError("symlink", err)
		}
	}
	return nil
}

// attributes are mount(2)'s flags as mount_setattr(2) takes them: set are those named, cleared are the others. The times
// of access are one choice; where none is named, as in a remount by mount(2), they stay.
func attributes(flags int) unix.MountAttr {
	attr := unix.MountAttr{Propagation: unix.MS_PRIVATE}
	for flag, bit := range map[int]uint64{
		unix.MS_RDONLY: unix.MOUNT_ATTR_RDONLY, unix.MS_NOSUID: unix.MOUNT_ATTR_NOSUID, unix.MS_NODEV: unix.MOUNT_ATTR_NODEV,
		unix.MS_NOEXEC: unix.MOUNT_ATTR_NOEXEC, unix.MS_NODIRATIME: unix.MOUNT_ATTR_NODIRATIME,
	} {
		if flags&flag != 0 {
			attr.Attr_set |= bit
		} else {
			attr.Attr_clr |= bit
		}
	}
	for flag, bit := range map[int]uint64{
		unix.MS_NOATIME: unix.MOUNT_ATTR_NOATIME, unix.MS_STRICTATIME: unix.MOUNT_ATTR_STRICTATIME, unix.MS_RELATIME: unix.MOUNT_ATTR_RELATIME,
	} {
		if flags&flag != 0 {
			attr.Attr_clr |= unix.MOUNT_ATTR__ATIME
			attr.Attr_set |= bit
		}
	}
	return attr
}
