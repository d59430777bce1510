package engine

import "log/slog"

// sweeper deletes discarded veth pairs beside the path of stopping a sandbox. What it had no time for before the
// process ended is swept up after the next start.
type sweeper struct {
	due  chan struct{} // capacity 1: there is something to do
	quit chan struct{}
	done chan struct{} // closed when the goroutine has ended
}

// startSweeper starts with one sweep, for what an earlier process left.
func startSweeper(sweep func() error, log *slog.Logger) *sweeper {
	s := &sweeper{due: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	s.wake()
	go func() {
		defer close(s.done)
		for s.next() {
			if err := sweep(); err != nil {
				log.Warn("sweeping up veth pairs failed; the next sweep tries again", "error", err)
			}
		}
	}()
	return s
}

// next waits for something to do; false means to end. What is due goes before the end.
func (s *sweeper) next() bool {
	select {
	case <-s.due:
		return true
	case <-s.quit:
	}
	select {
	case <-s.due:
		return true
	default:
		return false
	}
}

func (s *sweeper) wake() {
	select {
	case s.due <- struct{}{}:
	default:
	}
}

// stop ends the sweeper after what is due.
func (s *sweeper) stop() {
	close(s.quit)
	<-s.done
}
