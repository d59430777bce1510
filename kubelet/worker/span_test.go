package worker

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/runtime"
)

// traces keeps the passes that have been told of.
type traces struct {
	mu    sync.Mutex
	began int
	ended []string
}

func (s *traces) trace(ctx context.Context, name string, p *v1.Pod, update string, began time.Time) (context.Context, func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began++
	return ctx, func(err error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ended = append(s.ended, strings.TrimSpace(fmt.Sprintf("%s %s took %s %v", name, update, time.Since(began).Round(time.Second), err)))
	}
}

func (s *traces) list() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ended)
}

// TestSpans: a pass is told of once the last of its steps has ended, with what these failed at; one without steps is not.
func TestSpans(t *testing.T) {
	play(t, func(n *node) {
		s := &traces{}
		n.pool.cfg.Trace = s.trace
		n.slow = 3 * time.Second
		n.faults["a"] = &runtime.Fault{Reason: "Test", Message: "no luck"}
		p := testPod("a")
		n.pool.Update(p, false)
		time.Sleep(2 * time.Second)
		n.happened() // a pass while the start is under way has nothing to do
		synctest.Wait()
		if got := s.list(); len(got) != 0 {
			t.Errorf("told of before its steps have ended: %q", got)
		}
		time.Sleep(time.Minute)
		if got := s.list(); len(got) != 2 || !strings.HasPrefix(got[0], "syncPod create took 3s") || !strings.Contains(got[0], "no luck") || got[1] != "syncPod sync took 3s <nil>" {
			t.Errorf("after a start that failed once: %q", got)
		}
		n.pool.Update(deleting(p, 30), false)
		time.Sleep(time.Minute)
		got := strings.Join(s.list()[2:], "; ")
		if !strings.HasPrefix(got, "syncTerminatingPod") || !strings.HasSuffix(got, "syncTerminatedPod  took 0s <nil>") || n.deletions() != 1 {
			t.Errorf("after the end: %q", got)
		}
		if s.began <= len(s.list()) {
			t.Errorf("of %d passes all are told of", s.began)
		}
		n.pool.Remove("u")
		synctest.Wait()
	})
}
