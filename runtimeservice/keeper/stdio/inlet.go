package stdio

import (
	"errors"
	"os"
	"sync/atomic"
)

// inlet passes a peer's input on to the container's stdin.
type inlet struct {
	file  *os.File
	still atomic.Bool // stopped by freeze
	done  chan struct{}
	rest  []byte // what was read and not written when freeze came; valid when done
}

// addInlet is called with the lock held.
func (s *Streams) addInlet(f *os.File, rest []byte) {
	if f == nil {
		return
	}
	in := &inlet{file: f, rest: rest, done: make(chan struct{})}
	s.inlets[in] = struct{}{}
	to := s.stdin
	s.running.Go(func() {
		defer close(in.done)
		in.copy(to)
		if !in.still.Load() {
			s.detach(in, to)
		}
	})
}

// detach closes the peer that has ended, and with StdinOnce the container's stdin.
func (s *Streams) detach(in *inlet, to *os.File) {
	s.mu.Lock()
	delete(s.inlets, in)
	once := s.cfg.StdinOnce && !s.cfg.TTY && !s.ended
	if once {
		s.stdin = nil
	}
	s.mu.Unlock()
	in.file.Close()
	if once && to != nil {
		if s.cfg.LetGo != nil {
			s.cfg.LetGo()
		}
		to.Close()
	}
}

// copy passes on until the peer, the container or the copying ends, with a buffer that is held only while there is data.
func (in *inlet) copy(to *os.File) {
	raw, err := in.file.SyscallConn()
	if err != nil || to == nil {
		return
	}
	write := func(chunk []byte) {
		var n int
		if n, err = to.Write(chunk); err != nil && in.still.Load() {
			in.rest = append([]byte(nil), chunk[n:]...)
		}
	}
	if rest := in.rest; len(rest) > 0 {
		in.rest = nil
		write(rest)
	}
	r := &reader{sink: write}
	for err == nil {
		if nextErr := r.next(raw.Read); nextErr != nil {
			in.still.CompareAndSwap(true, errors.Is(nextErr, os.ErrDeadlineExceeded)) // an end is an end
			return
		}
	}
}
