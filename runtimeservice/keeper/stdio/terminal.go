package stdio

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// mover moves what a container writes on its terminal into a named pipe, from where it goes the way of all output. splice(2)
// does it in one step that a kill cannot divide, and the pipe outlives the keeper.
type mover struct {
	master *os.File // non-blocking
	pipe   *os.File // non-blocking, writing end
	done   chan struct{}
	still  atomic.Bool // stopped by freeze
}

// openMover opens the named pipe, which is being read.
func openMover(master *os.File, path string) (*mover, error) {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open pipe of terminal: %w", err)
	}
	return &mover{master: master, pipe: os.NewFile(uintptr(fd), "terminal"), done: make(chan struct{})}, nil
}

func (m *mover) run() {
	defer close(m.done)
	from, err := m.master.SyscallConn()
	if err != nil {
		return
	}
	to, err := m.pipe.SyscallConn()
	if err != nil {
		return
	}
	for err == nil {
		err = m.next(from, to)
	}
	if !m.still.Load() {
		m.drain(from, to)
	}
}

// next waits until there is something to move and room for it, and moves it.
func (m *mover) next(from, to syscall.RawConn) error {
	full := false
	err := from.Read(func(fd uintptr) bool {
		n, err := m.move(int(fd), to)
		// A terminal reports EIO while nobody has its other side open; someone may open it again.
		full = err == unix.EAGAIN && !writable(to)
		return full || n > 0 || err != nil && err != unix.EAGAIN && err != unix.EIO
	})
	if err != nil || !full {
		return err
	}
	return to.Write(func(fd uintptr) bool { return writableFd(int(fd)) })
}

// move moves what there is, without waiting.
func (m *mover) move(master int, to syscall.RawConn) (n int, err error) {
	if ctlErr := to.Control(func(pipe uintptr) {
		n, err = splice(master, int(pipe))
		if err == unix.EINVAL { // a kernel whose terminals cannot be spliced from: what a kill cuts here is lost
			n, err = copyOnce(master, int(pipe))
		}
	}); ctlErr != nil {
		return 0, ctlErr
	}
	return n, err
}

func splice(from, to int) (int, error) {
	for {
		n, err := unix.Splice(from, nil, to, nil, chunkSize, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if err != unix.EINTR {
			return int(n), err
		}
	}
}

// copyOnce reads no more than the pipe takes.
func copyOnce(from, to int) (int, error) {
	var chunk [unix.PathMax]byte // what a write to a pipe that has room takes whole
	if !writableFd(to) {
		return 0, unix.EAGAIN
	}
	n, err := readRetry(from, chunk[:])
	if err != nil || n == 0 {
		return n, err
	}
	return unix.Write(to, chunk[:n])
}

func writable(to syscall.RawConn) bool {
	ok := false
	_ = to.Control(func(fd uintptr) { ok = writableFd(int(fd)) })
	return ok
}

func writableFd(fd int) bool {
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(poll, 0)
	return err == nil && n > 0
}

// drain moves what the terminal holds now. All that the container's init wrote is in there; a survivor that writes on
// cannot hold the end of the container up.
func (m *mover) drain(from, to syscall.RawConn) {
	_ = m.pipe.SetWriteDeadline(time.Now().Add(patience))
	for left := 2 * chunkSize; left > 0; {
		n, err := 0, error(nil)
		if from.Control(func(fd uintptr) { n, err = m.move(int(fd), to) }) != nil {
			return
		}
		left -= n
		switch {
		case n > 0:
		case err == unix.EAGAIN && !writable(to):
			if to.Write(func(fd uintptr) bool { return writableFd(int(fd)) }) != nil {
				return
			}
		default:
			return
		}
	}
}

// finish moves what is left, while the pipe is still read.
func (m *mover) finish() {
	_ = m.master.SetReadDeadline(time.Unix(1, 0))
	_ = m.pipe.SetWriteDeadline(time.Unix(1, 0))
	<-m.done
	m.pipe.Close()
}

// freeze stops between two steps; thaw prepares for another run.
func (m *mover) freeze() {
	m.still.Store(true)
	_ = m.master.SetReadDeadline(time.Unix(1, 0))
	_ = m.pipe.SetWriteDeadline(time.Unix(1, 0))
	<-m.done
}

func (m *mover) thaw() {
	m.still.Store(false)
	m.done = make(chan struct{})
	_ = m.master.SetReadDeadline(time.Time{})
	_ = m.pipe.SetWriteDeadline(time.Time{})
}
