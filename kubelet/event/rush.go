package event

import (
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
)

// patience is how old an event may get while it waits for a rush to be over.
const patience = 2 * time.Second

// rush counts the starts of sandboxes and containers that are under way.
type rush struct {
	mu   sync.Mutex
	n    int
	over chan struct{} // closed when n falls to zero
}

// begin tells of a start; done has to be called once, when it has succeeded or failed.
func (r *rush) begin() (done func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == 0 {
		r.over = make(chan struct{})
	}
	r.n++
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.n--; r.n == 0 {
			close(r.over)
		}
	}
}

// ended is closed when nothing is being started any more; nil when nothing is.
func (r *rush) ended() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == 0 {
		return nil
	}
	return r.over
}

// sink writes an event when no pod is being started, or when the event is old enough: to write it costs the machine a tenth
// of what the start costs of which it tells, and nobody waits for it. What went wrong is written at once.
type sink struct {
	record.EventSink
	rush   *rush
	closed chan struct{}
}

func (s sink) Create(e *v1.Event) (*v1.Event, error) {
	s.wait(e)
	return s.EventSink.Create(e)
}

func (s sink) Patch(e *v1.Event, data []byte) (*v1.Event, error) {
	s.wait(e)
	return s.EventSink.Patch(e, data)
}

func (s sink) wait(e *v1.Event) {
	over, left := s.rush.ended(), patience-time.Since(e.LastTimestamp.Time)
	if over == nil || left <= 0 || e.Type != v1.EventTypeNormal {
		return
	}
	timer := time.NewTimer(left)
	defer timer.Stop()
	select {
	case <-over:
	case <-timer.C:
	case <-s.closed:
	}
}
