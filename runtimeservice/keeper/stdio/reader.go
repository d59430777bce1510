package stdio

import (
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// chunkSize is the capacity of a pipe; a reader borrows a buffer of this size only when there is something to read.
const chunkSize = 64 << 10

var chunks = sync.Pool{New: func() any { return new([chunkSize]byte) }}

// reader copies what a container writes on one stream, until the stream ends or finish is called.
type reader struct {
	file  *os.File // non-blocking
	spool *spool   // nil: none
	sink  func([]byte)
	done  chan struct{}
	still atomic.Bool // stopped by freeze
}

func newReader(file *os.File, sp *spool, sink func([]byte)) *reader {
	return &reader{file: file, spool: sp, sink: sink, done: make(chan struct{})}
}

// take reads without waiting, through the spool where there is one.
func (r *reader) take(fd int, chunk []byte) (int, error) {
	if r.spool == nil {
		return readRetry(fd, chunk)
	}
	n, err := r.spool.take(fd, chunk)
	if err != nil && unspoolable(err) {
		return readRetry(fd, chunk)
	}
	return n, err
}

// hand hands a chunk on; then it is safe.
func (r *reader) hand(chunk []byte) {
	r.sink(chunk)
	if r.spool != nil {
		r.spool.clear()
	}
}

func (r *reader) run() {
	defer close(r.done)
	defer func() {
		if !r.still.Load() {
			r.file.Close()
		}
	}()
	raw, err := r.file.SyscallConn()
	if err != nil {
		return
	}
	for err == nil {
		err = r.next(raw.Read)
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && !r.still.Load() {
		r.drain(raw)
	}
}

// freeze stops between two chunks and leaves what comes where it is. A reader that has ended stays so.
func (r *reader) freeze() {
	r.still.Store(true)
	_ = r.file.SetReadDeadline(time.Unix(1, 0))
	<-r.done
}

// thaw prepares for another run.
func (r *reader) thaw() {
	r.still.Store(false)
	r.done = make(chan struct{})
	_ = r.file.SetReadDeadline(time.Time{})
}

// errEnd says that the stream has ended.
var errEnd = errors.New("end of stream")

// next waits in the given way until there is data, and hands it on.
func (r *reader) next(wait func(func(fd uintptr) bool) error) error {
	var chunk *[chunkSize]byte
	var n int
	var readErr error
	err := wait(func(fd uintptr) bool {
		chunk = chunks.Get().(*[chunkSize]byte)
		n, readErr = r.take(int(fd), chunk[:])
		if readErr == unix.EAGAIN {
			chunks.Put(chunk)
			chunk = nil
			return false
		}
		return true
	})
	if chunk != nil {
		defer chunks.Put(chunk)
	}
	switch {
	case err != nil:
		return err
	case readErr != nil:
		return readErr
	case n == 0:
		return errEnd
	}
	r.hand(chunk[:n])
	return nil
}

// drain takes what is in the pipe now. All that the container's init wrote is in there; its bound is the pipe's
// capacity, so a surviving process that writes on cannot hold the end of the container up.
func (r *reader) drain(raw syscall.RawConn) {
	left := chunkSize
	_ = raw.Control(func(fd uintptr) {
		if size, err := unix.FcntlInt(fd, unix.F_GETPIPE_SZ, 0); err == nil {
			left = max(left, size)
		}
	})
	for left > 0 {
		chunk := chunks.Get().(*[chunkSize]byte)
		n := 0
		_ = raw.Control(func(fd uintptr) { n, _ = r.take(int(fd), chunk[:]) })
		if n > 0 {
			r.hand(chunk[:n])
		}
		chunks.Put(chunk)
		if n <= 0 {
			return
		}
		left -= n
	}
}

// finish takes what is left and waits until it is handed on.
func (r *reader) finish() {
	_ = r.file.SetReadDeadline(time.Unix(1, 0))
	<-r.done
}

func readRetry(fd int, b []byte) (int, error) {
	for {
		n, err := unix.Read(fd, b)
		if err != unix.EINTR {
			return n, err
		}
	}
}
