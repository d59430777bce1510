package engine

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// storeLock keeps a second process from opening the store: it would sweep what the first one is pulling. The kernel
// takes it off when the holder dies.
type storeLock struct{ file *os.File }

func lockStore(root string) (*storeLock, error) {
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make image store: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(root, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock image store: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("image store %s is in use by another process: stop it, or use another directory: %w", root, err)
	}
	return &storeLock{f}, nil
}

func (l *storeLock) release() error { return l.file.Close() }

// sync makes everything written to the store so far durable.
func (l *storeLock) sync() error {
	if err := unix.Syncfs(int(l.file.Fd())); err != nil {
		return fmt.Errorf("sync image store: %w", err)
	}
	return nil
}
