package pod

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// inits looks after the init containers and tells whether the pod is initialised: the main containers may run.
//
// Init containers run one after the other, each to success. A sidecar counts as passed once it has started (and its
// startup probe, if any, has succeeded), and is kept running from then on. The list is walked from its end: a finished
// container may have been removed from the runtime, so the last one seen tells that all before it were passed.
func (pl *planner) inits() bool {
	list := pl.d.Pod.Spec.InitContainers
	if len(list) == 0 {
		return true
	}
	w := initWalk{planner: pl, passed: MainStarted(pl.d.Pod, pl.o)}
	w.initialised = w.passed
	for i := len(list) - 1; i >= 0; i-- {
		if w.visit(i); w.failed {
			pl.acts.Finished = true
			return false
		}
	}
	if !w.passed {
		w.wanted = append(w.wanted, 0)
	}
	for i := len(w.wanted) - 1; i >= 0; i-- {
		c := &list[w.wanted[i]]
		pl.startOver(c, pl.o.Active(c.Name))
	}
	return w.initialised
}

// initWalk is one walk over the init containers, from the last to the first.
type initWalk struct {
	*planner
	// passed: a later container, or a main one, has been seen, so this one was passed once.
	passed      bool
	initialised bool
	failed      bool
	// wanted holds indexes to start, in walking order.
	wanted []int
}

func (w *initWalk) visit(i int) {
	c := &w.d.Pod.Spec.InitContainers[i]
	last := w.o.Active(c.Name)
	if last == nil {
		if w.passed && Sidecar(c) {
			w.wanted = append(w.wanted, i)
		}
		return
	}
	if w.passed && !Sidecar(c) {
		return
	}
	switch {
	case last.State == Running && Sidecar(c):
		w.sidecar(i, c, last)
	case last.State == Running:
		if k, killing := w.o.Kills[last.ID]; killing {
			w.kill(last, k, true)
		} else {
			resizePlanner{w.planner}.container(c, last)
		}
	case last.State == Exited && Sidecar(c):
		w.wanted = append(w.wanted, i)
	case last.State == Exited && last.ExitCode == 0 && !w.o.Kills[last.ID].Restart:
		w.pass(i)
	case last.State == Exited && !w.o.Kills[last.ID].Restart && !RestartsAfter(&w.d.Pod.Spec, c, last.ExitCode):
		w.failed = true
	case last.State == Unknown && !Sidecar(c) && !restartsAfterKill(&w.d.Pod.Spec, c):
		w.failed = true
	default:
		w.wanted = append(w.wanted, i)
	}
	w.passed = true
}

// pass notes that container i is behind us: the next one may start, or the pod is initialised.
func (w *initWalk) pass(i int) {
	if i == len(w.d.Pod.Spec.InitContainers)-1 {
		w.initialised = true
	} else if !w.passed {
		w.wanted = append(w.wanted, i+1)
	}
}

// sidecar looks after a running sidecar.
func (w *initWalk) sidecar(i int, c *v1.Container, last *Container) {
	if k, killing := w.o.Kills[last.ID]; killing {
		w.kill(last, k, true)
		return
	}
	probes := w.o.Probes[last.ID]
	if c.StartupProbe != nil && probes.Startup != Success {
		if probes.Startup == Failure {
			w.killSidecar(last, CauseStartup, "failed startup probe")
		}
		return
	}
	w.pass(i)
	switch {
	case last.Hash != 0 && last.Hash != Hash(c):
		w.killSidecar(last, CauseChanged, "definition changed")
	case c.LivenessProbe != nil && probes.Liveness == Failure:
		w.killSidecar(last, CauseLiveness, "failed liveness probe")
	default:
		resizePlanner{w.planner}.container(c, last)
	}
}

// killSidecar begins to stop one that is to come again, which its event does not tell.
func (w *initWalk) killSidecar(c *Container, cause Cause, why string) {
	w.kill(c, Kill{Cause: cause, Message: fmt.Sprintf("Init container %s %s", c.Name, why), Restart: true}, true)
}
