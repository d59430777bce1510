package stdio

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long an attached peer may make no room before it is detached: a container shares a terminal's
// pace, but a peer that stands still must not stop it.
const patience = 2 * time.Second

// outlet hands a copy of one stream to an attached peer.
type outlet struct {
	file  *os.File
	queue chan []byte
	gone  chan struct{} // closed when the peer is not served any more
	once  sync.Once

	still   chan struct{} // closed by freeze
	stopped chan struct{} // closed when run has returned
	rest    []byte        // what a write that freeze cut has left; valid when stopped
}

// newOutlet makes an outlet that begins with what an earlier one has left.
func newOutlet(file *os.File, rest []byte) *outlet {
	o := &outlet{
		file: file, queue: make(chan []byte, 8), gone: make(chan struct{}),
		still: make(chan struct{}), stopped: make(chan struct{}),
	}
	if len(rest) > 0 {
		o.queue <- rest
	}
	return o
}

// freeze stops writing. It returns what has not been written, unless the peer is gone. Nothing may be offered any more.
func (o *outlet) freeze() (rest []byte, alive bool) {
	close(o.still)
	_ = o.file.SetDeadline(time.Unix(1, 0))
	<-o.stopped
	select {
	case <-o.gone:
		return nil, false
	default:
	}
	for rest = o.rest; ; {
		select {
		case chunk := <-o.queue:
			rest = append(rest, chunk...)
		default:
			return rest, o.file.SetDeadline(time.Time{}) == nil
		}
	}
}

func (o *outlet) frozen() bool {
	select {
	case <-o.still:
		return true
	default:
		return false
	}
}

// offer queues a copy of the chunk. It reports false when the peer was detached.
func (o *outlet) offer(chunk []byte) bool {
	own := append([]byte(nil), chunk...)
	select {
	case <-o.gone:
		return false
	case o.queue <- own:
		return true
	default:
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case o.queue <- own:
		return true
	case <-o.gone:
	case <-timer.C:
		o.detach()
	}
	return false
}

func (o *outlet) detach() {
	o.once.Do(func() {
		close(o.gone)
		// Also ends a write that is under way.
		_ = o.file.SetWriteDeadline(time.Unix(1, 0))
	})
}

// run writes until the queue is closed and empty, or the peer is detached.
func (o *outlet) run() {
	defer close(o.stopped)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		o.watch()
	}()
	defer func() {
		if !o.frozen() {
			o.detach()
			o.file.Close() // ends watch, and the peer sees the end
		}
		<-watched
	}()
	for {
		select {
		case chunk, more := <-o.queue:
			if !more {
				return
			}
			if !o.write(chunk) {
				return
			}
		case <-o.gone:
			return
		case <-o.still:
			return
		}
	}
}

// write writes a chunk, and reports false when it is the last.
func (o *outlet) write(chunk []byte) bool {
	n, err := o.file.Write(chunk)
	switch {
	case err == nil:
		return true
	case o.frozen() && errors.Is(err, os.ErrDeadlineExceeded):
		o.rest = chunk[n:]
	default:
		o.detach()
	}
	return false
}

// watch detaches when the peer closes its end, even if the container never writes.
func (o *outlet) watch() {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	err = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0 // POLLERR and POLLHUP are always reported
	})
	if err == nil || !o.frozen() {
		o.detach()
	}
}

// end lets run write what is queued, for a bounded time, and stop.
func (o *outlet) end() {
	_ = o.file.SetWriteDeadline(time.Now().Add(patience))
	close(o.queue)
}

// pollable takes over a passed file and makes it non-blocking, so that waiting on it costs no thread.
func pollable(f *os.File) (*os.File, error) {
	defer f.Close()
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	dup, dupErr := -1, error(nil)
	if err := raw.Control(func(fd uintptr) { dup, dupErr = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 3) }); err != nil {
		return nil, err
	}
	if dupErr != nil {
		return nil, fmt.Errorf("duplicate passed file: %w", dupErr)
	}
	if err := unix.SetNonblock(dup, true); err != nil {
		unix.Close(dup)
		return nil, fmt.Errorf("make passed file non-blocking: %w", err)
	}
	return os.NewFile(uintptr(dup), f.Name()), nil
}
