package stdio

import (
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
}

func newOutlet(file *os.File) *outlet {
	return &outlet{file: file, queue: make(chan []byte, 8), gone: make(chan struct{})}
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
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		o.watch()
	}()
	defer func() {
		o.detach()
		o.file.Close() // ends watch, and the peer sees the end
		<-watched
	}()
	for {
		select {
		case chunk, more := <-o.queue:
			if !more {
				return
			}
			if _, err := o.file.Write(chunk); err != nil {
				return
			}
		case <-o.gone:
			return
		}
	}
}

// watch detaches when the peer closes its end, even if the container never writes.
func (o *outlet) watch() {
	raw, err := o.file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(poll, 0)
		return err == nil && n > 0 // POLLERR and POLLHUP are always reported
	})
	o.detach()
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
