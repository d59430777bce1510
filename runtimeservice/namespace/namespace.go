// Package namespace pins the user, IPC and UTS namespaces of sandboxes by bind mounts, sets what lives in them, and
// runs code inside a pinned network namespace. All of it happens on threads of its own that end afterwards, so the
// process itself never changes its namespaces.
package namespace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Sandbox is what is pinned for one sandbox. An empty path is not wanted: the host's namespace is used.
type Sandbox struct {
	IPC, UTS string            // paths to pin at
	Network  string            // path of the pinned network namespace, for its sysctls
	Hostname string            // of the UTS namespace
	Sysctls  map[string]string // of the pod's namespaces, "net.ipv4.ip_forward" or with slashes
	// Owned says that a user namespace owns them and that they are pinned already (Holder.Pin).
	Owned bool
	Root  int // the owner's root, as a user of the host
}

// Pin makes the namespaces, unless they are owned, and sets what lives in them. Leftovers at the same paths are replaced.
func Pin(s Sandbox) error {
	if s.Owned {
		return onThread(s.fill)
	}
	if err := Unpin(s.IPC, s.UTS); err != nil {
		return err
	}
	return onThread(func() error { return s.pin() })
}

func (s Sandbox) pin() error {
	flags := 0
	if s.IPC != "" {
		flags |= unix.CLONE_NEWIPC
	}
	if s.UTS != "" {
		flags |= unix.CLONE_NEWUTS
	}
	if err := unix.Unshare(flags); err != nil {
		return fmt.Errorf("make IPC and UTS namespaces: %w", err)
	}
	if err := s.set(); err != nil {
		return err
	}
	return errors.Join(bind("ipc", s.IPC), bind("uts", s.UTS))
}

// fill enters the namespaces that are there, and sets what lives in them.
func (s Sandbox) fill() error {
	for _, ns := range []struct {
		path string
		kind int
	}{{s.IPC, unix.CLONE_NEWIPC}, {s.UTS, unix.CLONE_NEWUTS}} {
		if ns.path == "" {
			continue
		}
		if err := enter(ns.path, ns.kind); err != nil {
			return err
		}
	}
	return s.set()
}

// set sets the host name and the sysctls of the thread's namespaces.
func (s Sandbox) set() error {
	if s.UTS != "" {
		if err := unix.Sethostname([]byte(s.Hostname)); err != nil {
			return fmt.Errorf("set host name %q: %w", s.Hostname, err)
		}
	}
	if s.Network != "" && len(s.Sysctls) > 0 {
		if err := enter(s.Network, unix.CLONE_NEWNET); err != nil {
			return err
		}
	}
	return s.applySysctls()
}

// bind keeps a namespace of the calling thread alive at path.
func bind(kind, path string) error {
	if path == "" {
		return nil
	}
	return PinFile(kind, fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), kind), path)
}

// PinFile keeps the namespace that source is a file of alive at path.
func PinFile(kind, source, path string) error {
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return fmt.Errorf("pin the %s namespace: %w", kind, err)
	}
	if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin the %s namespace at %s: %w", kind, path, err)
	}
	return nil
}

// Unpin gives namespaces up. Unpinning what is gone succeeds.
func Unpin(paths ...string) error {
	var errs []error
	for _, path := range paths {
		if path == "" {
			continue
		}
		err := unix.Unmount(path, unix.MNT_DETACH)
		if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unpin the namespace at %s: %w", path, err))
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("unpin a namespace: %w", err))
		}
	}
	return errors.Join(errs...)
}

// Sweep unpins the IPC, UTS and user namespaces in dir, "<id>-ipc", "<id>-uts" and "<id>-user", whose id is not known. The network
// namespaces beside them are the network's.
func Sweep(dir string, known map[string]bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("look for leftovers: %w", err)
	}
	for _, entry := range entries {
		id, kind, _ := strings.Cut(entry.Name(), "-")
		if known[id] || (kind != "ipc" && kind != "uts" && kind != "user") {
			continue
		}
		if err := Unpin(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Do runs fn on a thread inside the network namespace pinned at path.
func Do(path string, fn func() error) error {
	return onThread(func() error {
		if err := enter(path, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return fn()
	})
}

func enter(path string, kind int) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the namespace at %s: %w", path, err)
	}
	defer unix.Close(fd)
	if err := unix.Setns(fd, kind); err != nil {
		return fmt.Errorf("enter the namespace at %s: %w", path, err)
	}
	return nil
}

// onThread runs fn on a thread that ends with it: a goroutine that returns locked takes its thread along.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- fn()
	}()
	return <-done
}

// applySysctls writes them in the thread's namespaces: /proc/sys shows those of whoever opens the file.
func (s Sandbox) applySysctls() error {
	for name, value := range s.Sysctls {
		write := func() error { return os.WriteFile(SysctlPath(name), []byte(value), 0) }
		if s.Owned && Scope(name) == "ipc" {
			write = asUser(s.Root, write) // they ask who writes, not what he may do
		}
		if err := write(); err != nil {
			return fmt.Errorf("sysctl %s = %q: %w", name, value, err)
		}
	}
	return nil
}

// asUser runs fn while the thread, which is locked and ends soon, has another effective user.
func asUser(uid int, fn func() error) func() error {
	const same = ^uintptr(0)
	become := func(uid int) error {
		// Not unix.Setresuid, which changes all threads of the process.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same); errno != 0 {
			return fmt.Errorf("become user %d: %w", uid, errno)
		}
		return nil
	}
	return func() error {
		if err := become(uid); err != nil {
			return err
		}
		return errors.Join(fn(), become(0))
	}
}

// SysctlPath is the file of a sysctl. Of the two notations, the one whose first separator is a slash keeps its dots
// (systemd's rule, sysctl.d(5)).
func SysctlPath(name string) string {
	if at := strings.IndexAny(name, "./"); at >= 0 && name[at] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	return filepath.Join("/proc/sys", filepath.Clean("/"+name))
}

// Scope is whose namespace a sysctl belongs to: "net", "ipc", or "" when it is the node's and no pod may set it.
func Scope(name string) string {
	path := strings.TrimPrefix(SysctlPath(name), "/proc/sys/")
	switch {
	case strings.HasPrefix(path, "net/"):
		return "net"
	case strings.HasPrefix(path, "kernel/shm"), strings.HasPrefix(path, "kernel/msg"), path == "kernel/sem",
		strings.HasPrefix(path, "fs/mqueue/"):
		return "ipc"
	}
	return ""
}
