// Package netns pins network namespaces: each is a bind mount of the namespace's file below one directory, so
// that it lives without a process in it and can be joined by its path (setns(2), OCI "namespaces[].path").
//
// Namespaces belong to threads. Whatever changes one here runs on a goroutine of its own that is locked to its
// thread; a thread that cannot be brought back to its first namespace is never given back to the scheduler but
// ends with its goroutine.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// suffix ends the file name of a network namespace, so that a sandbox's other namespaces can lie beside it.
const suffix = "-net"

// loopbackIndex is the index of the loopback interface in every new network namespace (net/core/dev.c).
const loopbackIndex = 1

// Path is where Create pins the namespace of the sandbox.
func Path(dir, sandboxID string) string { return filepath.Join(dir, sandboxID+suffix) }

// Create pins a new network namespace, its loopback interface up, at Path(dir, sandboxID). What an earlier
// attempt left at that path is removed first.
func Create(dir, sandboxID string) (string, error) {
	return pin(dir, sandboxID, func(path string) error {
		return onOwnThread(func() error { return pinNew(path) })
	})
}

// Adopt pins the namespace with the file, /proc/<pid>/ns/net, in the same way.
func Adopt(dir, sandboxID, file string) (string, error) {
	return pin(dir, sandboxID, func(path string) error {
		if err := unix.Mount(file, path, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("pin %s: %w", file, err)
		}
		return LoopbackUp(path)
	})
}

func pin(dir, sandboxID string, fill func(path string) error) (string, error) {
	if sandboxID == "" || strings.ContainsRune(sandboxID, '/') {
		return "", fmt.Errorf("network namespace: sandbox id %q is empty or holds a slash", sandboxID)
	}
	path := Path(dir, sandboxID)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("create the directory of network namespaces: %w", err)
	}
	if err := target(path); err != nil {
		return "", err
	}
	if err := fill(path); err != nil {
		return "", errors.Join(fmt.Errorf("create network namespace %s: %w", path, err), Remove(path))
	}
	return path, nil
}

// target makes the empty file that the namespace is mounted on.
func target(path string) error {
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o444)
		if err == nil {
			return f.Close()
		}
		if !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("create network namespace: %w", err)
		}
		if err := Remove(path); err != nil {
			return err
		}
	}
}

// pinNew runs on a thread of its own: it leaves for a new namespace, pins that and sets its loopback up.
func pinNew(path string) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	return loopbackUp()
}

// loopbackUp sets the loopback interface of the thread's namespace up.
func loopbackUp() error {
	lo := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: loopbackIndex}}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

// LoopbackUp sets the loopback interface of the namespace at path up. Create has done so.
func LoopbackUp(path string) error { return Do(path, loopbackUp) }

// Do runs fn on a thread that is in the namespace at path.
func Do(path string, fn func() error) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", path, err)
	}
	defer unix.Close(fd)
	return onOwnThread(func() error {
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter network namespace %s: %w", path, err)
		}
		return fn()
	})
}

// onOwnThread runs fn, which may change its thread's network namespace, and returns when it is done. The thread
// is brought back to where it was; where that fails it dies with the goroutine.
func onOwnThread(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			runtime.UnlockOSThread()
			done <- fmt.Errorf("open the thread's own network namespace: %w", err)
			return
		}
		defer unix.Close(home)
		err = fn()
		if unix.Setns(home, unix.CLONE_NEWNET) == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Remove unpins the namespace at path. Without a process, a socket or an open file in it the kernel then
// destroys it, and with it every interface it holds. Removing what is gone succeeds.
func Remove(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			break // not a mount point, or not there
		}
		if err != nil {
			return fmt.Errorf("unmount network namespace %s: %w", path, err)
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove network namespace: %w", err)
	}
	return nil
}

// Exists says whether a namespace, and not just the file for its mount, is at path.
func Exists(path string) bool {
	var st unix.Statfs_t
	return path != "" && unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

// List returns the sandbox ids whose namespaces, or the files left of them, lie in dir.
func List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list network namespaces: %w", err)
	}
	var ids []string
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), suffix); ok {
			ids = append(ids, id)
		}
	}
	return ids, nil
}
