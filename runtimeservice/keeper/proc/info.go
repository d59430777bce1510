package proc

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// getInfo asks the kernel about the process behind a pidfd (Linux 6.13; exit codes since 6.15).
func getInfo(fd int, info *unix.PidfdInfo) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(unix.PIDFD_GET_INFO), uintptr(unsafe.Pointer(info)))
	runtime.KeepAlive(info)
	if errno != 0 {
		return errno
	}
	return nil
}

// supportsInfo tells whether this kernel keeps exit codes in pidfds.
var supportsInfo = sync.OnceValue(func() bool {
	fd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_EXIT}
	if err := getInfo(fd, &info); err != nil {
		return false
	}
	return info.Supported_mask == 0 || info.Supported_mask&unix.PIDFD_INFO_EXIT != 0
})

// ErrNoPin says that this kernel cannot pin processes.
var ErrNoPin = errors.New("this kernel keeps no exit codes in pidfds (Linux 6.15 does)")

// Pin makes the end of the process known to whoever opens path, also when it was reaped in a time when nobody held it: the
// pidfd is mounted there, and the kernel keeps the exit code with it. The file must not exist. Unpin it.
func (p *Process) Pin(path string) error {
	if !supportsInfo() {
		return ErrNoPin
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("pin process: %w", err)
	}
	raw, err := p.fd.SyscallConn()
	if err != nil {
		return ErrGone
	}
	tree := -1
	var treeErr error
	if err := raw.Control(func(fd uintptr) {
		tree, treeErr = unix.OpenTree(int(fd), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC)
	}); err != nil {
		return ErrGone
	}
	if treeErr != nil {
		return fmt.Errorf("pin process: %w", treeErr)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("pin process at %s: %w", path, err)
	}
	return nil
}

// Unpin forgets a pinned process. What is not pinned is no error.
func Unpin(path string) error {
	err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unpin process at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("unpin process: %w", err)
	}
	return nil
}

// OpenPinned holds the process that is pinned at path and had this number, whether it lives or not.
func OpenPinned(pid int, path string) (*Process, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("open pinned process: %w", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil || fs.Type != unix.PID_FS_MAGIC {
		unix.Close(fd)
		return nil, fmt.Errorf("no process is pinned at %s", path)
	}
	return hold(pid, fd), nil
}
