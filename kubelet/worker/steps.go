package worker

import (
	"context"
	"sync"
)

// steps are what runs beside a worker, each under a name, at most one of a name at a time. The worker's mutex guards running.
type steps struct {
	running map[string]*step
	// before are those that ran when the pass under way began. What they have done since may not be in what it has
	// observed, so it does not begin them again; their end wakes the worker for the next pass.
	before map[string]bool
	group  sync.WaitGroup
}

type step struct{ cancel context.CancelFunc }

// Names of steps: the start of sandbox and containers is one, the others have the ID of what they are about behind them.
const (
	stepStart     = "start"
	stepHook      = "hook/"
	stepStop      = "stop/"
	stepSandbox   = "sandbox/"
	stepResize    = "resize"
	stepRemove    = "remove/"
	stepRemoveBox = "remove-sandbox/"
)

func (s *steps) busy(name string) bool { return s.running[name] != nil }

func (s *steps) wait() { s.group.Wait() }

// begin runs fn beside the worker and wakes the worker when it has ended. If a step of that name is running, nothing
// happens, or with replace that one is cancelled and this one takes its place.
func (w *worker) begin(ctx context.Context, name string, replace bool, fn func(ctx context.Context)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.steps.before[name] && !replace {
		return
	}
	if old := w.steps.running[name]; old != nil {
		if !replace {
			return
		}
		old.cancel()
	}
	span := traced(ctx).step()
	ctx, cancel := context.WithCancel(ctx)
	mine := &step{cancel}
	w.steps.running[name] = mine
	w.steps.group.Add(1)
	go func() {
		defer w.steps.group.Done()
		defer cancel()
		fn(ctx)
		span.done()
		w.view.stale.Store(true) // before the step counts as ended: whoever sees that looks at what it has made
		w.mu.Lock()
		if w.steps.running[name] == mine {
			delete(w.steps.running, name)
		}
		w.mu.Unlock()
		w.poke()
	}()
}

// cancel asks the step to end early.
func (w *worker) cancel(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.steps.running[name]; s != nil {
		s.cancel()
	}
}

// idle tells whether no step is running.
func (w *worker) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.steps.running) == 0
}
