package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// lock keeps two kubelets of one machine apart, as where one starts another as a static pod and hands over to it.
type lock struct {
	file  string
	yield bool
}

// acquire waits for the lock. With yield the context it gives ends as soon as somebody else wants it. A kubelet tells that by opening the
// file; so the file is watched from before the lock is taken, and whoever finds it taken opens it once more: then who has it surely sees.
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
	watch, err := l.take(ctx, f)
	if err != nil {
		return nil, nil, fmt.Errorf("--lock-file: lock %s: %w", l.file, err) // f stays open: what waits goes with the process
	}
	if !l.yield {
		return ctx, func() { f.Close() }, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		if waited(f) || read(watch) == nil {
			slog.Info("another kubelet waits for the lock: this one ends", "file", l.file)
		}
	}()
	return ctx, func() { cancel(); watch.Close(); f.Close() }, nil
}

// take locks the open file, and gives what watches it since before, nil without yield.
func (l lock) take(ctx context.Context, f *os.File) (watch *os.File, err error) {
	if watch, err = l.watch(); err != nil {
		return nil, err
	}
	if err = flock(f, unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		return watch, err
	}
	watch.Close() // it would see what follows
	told, err := os.Open(l.file)
	if err != nil {
		return nil, err
	}
	told.Close()
	if watch, err = l.watch(); err != nil {
		return nil, err
	}
	got := make(chan error, 1)
	go func() { got <- flock(f, unix.LOCK_EX) }()
	select {
	case err = <-got:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return watch, err
}

func flock(f *os.File, how int) error {
	for {
		if err := unix.Flock(int(f.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// read waits until the watch has something to tell.
func read(watch *os.File) error {
	_, err := watch.Read(make([]byte, unix.SizeofInotifyEvent+unix.PathMax))
	return err
}

// waited tells whether somebody waits for the lock on the file, who has told the one before us: by the kernel's list of locks, where those
// who wait for one follow it.
//
//	7: FLOCK  ADVISORY  WRITE 4711 fd:01:1234 0 EOF
//	7: -> FLOCK  ADVISORY  WRITE 4712 fd:01:1234 0 EOF
func waited(f *os.File) bool {
	info, err := f.Stat()
	if err != nil {
		return false
	}
	inode := fmt.Sprintf(":%d", info.Sys().(*syscall.Stat_t).Ino)
	list, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false
	}
	mine := ""
	for line := range strings.Lines(string(list)) {
		w := strings.Fields(line)
		switch {
		case len(w) > 5 && w[1] == "FLOCK" && w[4] == strconv.Itoa(os.Getpid()) && strings.HasSuffix(w[5], inode):
			mine = w[0]
		case len(w) > 5 && w[0] == mine && w[1] == "->":
			return true
		}
	}
	return false
}

// watch gives a file that can be read once somebody has opened or deleted the lock's; nil without yield.
func (l lock) watch() (*os.File, error) {
	if !l.yield {
		return nil, nil
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	f := os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, l.file, unix.IN_OPEN|unix.IN_DELETE_SELF); err != nil {
		return nil, errors.Join(fmt.Errorf("watch it: %w", err), f.Close())
	}
	return f, nil
}
