package metrics

import (
	"sync"
	"time"
)

// Events tells how the kubelet learns of changes in the runtime (upstream's pod lifecycle event generator, PLEG); observe.Config
// takes it. With events there is a list every other minute only, as an audit; without them one each second.
type Events struct {
	took, interval *Histogram
	opened, failed *Counter
	mu             sync.Mutex
	listed         time.Time
	streaming      bool
}

func newEvents(s *Set) *Events {
	e := &Events{
		took:     s.Histogram("kubelet_pleg_relist_duration_seconds", "[ALPHA] Duration in seconds for relisting pods in PLEG.", defaults),
		interval: s.Histogram("kubelet_pleg_relist_interval_seconds", "[ALPHA] Interval in seconds between relisting in PLEG.", defaults),
		opened: s.Total("kubelet_evented_pleg_connection_success_count",
			"[ALPHA] The number of times a streaming client was obtained to receive CRI Events."),
		failed: s.Total("kubelet_evented_pleg_connection_error_count",
			"[ALPHA] The number of errors encountered during the establishment of streaming connection with the CRI runtime."),
	}
	// A wake-up carries nothing and cannot be dropped, only joined with another.
	s.Total("kubelet_pleg_discard_events", "[ALPHA] The number of discard events in PLEG.")
	s.Read("kubelet_pleg_last_seen_seconds", "[ALPHA] Timestamp in seconds when PLEG was last seen active.", func(emit Emit) { emit(e.seen(time.Now())) })
	return e
}

// Listed takes in a list of all that the runtime has.
func (e *Events) Listed(took time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	e.took.Observe(took)
	if began := now.Add(-took); !e.listed.IsZero() {
		e.interval.Observe(began.Sub(e.listed))
	}
	e.listed = now.Add(-took)
}

// Streaming tells that the stream of events is open, or has ended.
func (e *Events) Streaming(open bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if open {
		e.opened.Inc()
	} else {
		e.failed.Inc()
	}
	e.streaming = open
}

// seen is when the watch was last known to work: now, while there is a stream.
func (e *Events) seen(now time.Time) float64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.streaming {
		return float64(now.Unix())
	}
	if e.listed.IsZero() {
		return 0
	}
	return float64(e.listed.Unix())
}
