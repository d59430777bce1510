package oci

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// release lets a waiting init go on: it blocks opening the fifo for writing, writes one byte and executes the program.
// libcontainer's own Exec blocks a thread in open(2) for ever when the init has died; this one opens without blocking
// and waits in the runtime's poller, where died can wake it.
func release(path string, died <-chan struct{}) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("container was started already")
	}
	if err != nil {
		return fmt.Errorf("open exec fifo: %w", err)
	}
	fifo := os.NewFile(uintptr(fd), path)
	defer fifo.Close()
	raw, err := fifo.SyscallConn()
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		select {
		case <-died:
			_ = fifo.SetReadDeadline(time.Unix(1, 0))
		case <-stop:
		}
	}()
	defer func() { close(stop); <-stopped }()
	var got int
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		got, readErr = unix.Read(int(fd), b[:])
		// Zero bytes: no writer has come yet. The first one makes the fifo readable.
		return got > 0 || (readErr != nil && readErr != unix.EAGAIN && readErr != unix.EINTR)
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		// A short program may have been executed and have ended before its byte was read here: then it was started.
		if err = raw.Control(func(fd uintptr) { var b [1]byte; got, readErr = unix.Read(int(fd), b[:]) }); err == nil && got <= 0 {
			return ErrGone
		}
	}
	if err = errors.Join(err, readErr); err != nil && got <= 0 {
		return fmt.Errorf("read exec fifo: %w", err)
	}
	// Its absence is how libcontainer tells running from created.
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove exec fifo: %w", err)
	}
	return nil
}
