package event

import (
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// store takes events.
type store struct{ taken chan string }

func (s store) Create(e *v1.Event) (*v1.Event, error) { s.taken <- "create " + e.Reason; return e, nil }
func (s store) Update(e *v1.Event) (*v1.Event, error) { s.taken <- "update " + e.Reason; return e, nil }
func (s store) Patch(e *v1.Event, _ []byte) (*v1.Event, error) {
	s.taken <- "patch " + e.Reason
	return e, nil
}

// TestRush: what is no fault waits for the starts that are under way, but not for ever.
func TestRush(t *testing.T) {
	for name, tc := range map[string]struct {
		kind   string
		starts time.Duration // how long a sandbox is being started; none is when zero
		age    time.Duration // of the event
		closed time.Duration // when the kubelet ends
		want   time.Duration // when it is written
	}{
		"nothing is being started": {kind: v1.EventTypeNormal},
		"a start":                  {kind: v1.EventTypeNormal, starts: time.Second, want: time.Second},
		"a long start":             {kind: v1.EventTypeNormal, starts: time.Minute, want: patience},
		"it has waited before":     {kind: v1.EventTypeNormal, starts: time.Minute, age: time.Second, want: patience - time.Second},
		"it is old":                {kind: v1.EventTypeNormal, starts: time.Minute, age: time.Hour},
		"a fault":                  {kind: v1.EventTypeWarning, starts: time.Second},
		"the kubelet ends":         {kind: v1.EventTypeNormal, starts: time.Minute, closed: time.Second, want: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &Recorder{closed: make(chan struct{})}
				s := sink{store{make(chan string, 2)}, &r.rush, r.closed}
				if tc.starts > 0 {
					done, other := r.Starting(), r.Starting() // of two starts the last counts
					other()
					time.AfterFunc(tc.starts, done)
				}
				if tc.closed > 0 {
					time.AfterFunc(tc.closed, func() { close(r.closed) })
				}
				began := time.Now()
				e := &v1.Event{Type: tc.kind, Reason: "R", LastTimestamp: metav1.NewTime(began.Add(-tc.age))}
				if _, err := s.Create(e); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != tc.want {
					t.Errorf("written after %v, want %v", took, tc.want)
				}
				began = time.Now()
				e.LastTimestamp = metav1.NewTime(began)
				if _, err := s.Patch(e, nil); err != nil {
					t.Fatal(err)
				}
				if a, b := <-s.EventSink.(store).taken, <-s.EventSink.(store).taken; a != "create R" || b != "patch R" {
					t.Errorf("%s, then %s", a, b)
				}
				time.Sleep(time.Hour) // all timers are over
				if r.rush.ended() != nil {
					t.Error("a start is under way for ever")
				}
			})
		})
	}
}
