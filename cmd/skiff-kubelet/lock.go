package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps two kubelets of one machine apart, as where one starts another as a static pod and hands over to it.
type lock struct {
	file  string
	yield bool
}

// acquire waits for the lock. With yield the context it gives ends as soon as somebody else opens the file: that is how the
// next kubelet says that it waits.
func (l lock) acquire(ctx context.Context) (context.Context, func(), error) {
	if l.file == "" {
		if l.yield {
			return nil, nil, errors.New("--exit-on-lock-contention: there is no lock: give --lock-file as well")
		}
		return ctx, func() {}, nil
	}
	f, err := os.OpenFile(l.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("--lock-file: %w", err)
	}
	got := make(chan error, 1)
	go func() { got <- flock(f) }()
	select {
	case err = <-got:
	case <-ctx.Done():
		err = ctx.Err() // what waits for the lock goes with the process
	}
	if err != nil {
		return nil, nil, fmt.Errorf("--lock-file: lock %s: %w", l.file, err)
	}
	if !l.yield {
		return ctx, func() { f.Close() }, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	watch, err := watchOpens(l.file)
	if err != nil {
		cancel()
		return nil, nil, errors.Join(err, f.Close())
	}
	go func() {
		defer cancel()
		if _, err := watch.Read(make([]byte, unix.SizeofInotifyEvent+unix.PathMax)); err == nil {
			slog.Info("another kubelet waits for the lock: this one ends", "file", l.file)
		}
	}()
	return ctx, func() { cancel(); watch.Close(); f.Close() }, nil
}

func flock(f *os.File) error {
	for {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// watchOpens gives a file that can be read once somebody has opened or deleted the one at path.
func watchOpens(path string) (*os.File, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, path, unix.IN_OPEN|unix.IN_DELETE_SELF); err != nil {
		return nil, errors.Join(fmt.Errorf("watch %s: %w", path, err), f.Close())
	}
	return f, nil
}
