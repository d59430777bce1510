package worker

import (
	"context"
	"errors"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Trace begins the span of a pass of a pod's worker (syncPod, syncTerminatingPod or syncTerminatedPod) and returns what ends
// it, with what went wrong. A span that is not ended is not told. update is why the pod is synced: create or sync; empty when it
// is ending.
type Trace func(ctx context.Context, name string, p *v1.Pod, update string, began time.Time) (context.Context, func(error))

// span is what one pass does, as a trace shows it: from the beginning of the pass to the end of the last step that it has begun.
// A pass that does nothing is not told of. The contexts of its steps have it; that of a pass which is not traced has none.
type span struct {
	end func(error)

	mu    sync.Mutex
	under int // the pass and its steps that are under way
	steps int // all that there were
	errs  []error
}

// spanKey is where a context has its span.
type spanKey struct{}

// pass begins the span of the pass that w makes, and returns the context for its steps.
func (t Trace) pass(ctx context.Context, w *worker, d *pod.Desired, a *pod.Actions, began time.Time) (context.Context, *span) {
	if t == nil {
		return ctx, nil
	}
	name, update := "syncPod", "sync"
	switch {
	case a.Done:
		name, update = "syncTerminatedPod", ""
	case d.End != nil:
		name, update = "syncTerminatingPod", ""
	case !w.view.made:
		update = "create"
	}
	ctx, end := t(ctx, name, d.Pod, update, began)
	s := &span{end: end, under: 1}
	return context.WithValue(ctx, spanKey{}, s), s
}

// traced is the span of a context; nil when there is none.
func traced(ctx context.Context) *span {
	s, _ := ctx.Value(spanKey{}).(*span)
	return s
}

// step notes that a step of the pass begins, which done ends.
func (s *span) step() *span {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.under++
	s.steps++
	return s
}

// done ends the pass or one of its steps.
func (s *span) done() {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.under--; s.under == 0 && s.steps > 0 {
		s.end(errors.Join(s.errs...))
	}
}

// failed tells what went wrong with a step.
func (s *span) failed(err error) {
	if s == nil || err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.errs = append(s.errs, err)
}
