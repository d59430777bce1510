package worker

import (
	"context"
	"testing"

	"github.com/skiff-node/skiff/kubelet/pod/report"
)

// TestStepEndsDuringPass: what a step has done after a pass began may not be in what that pass observes, so it is not begun
// again before the next pass.
func TestStepEndsDuringPass(t *testing.T) {
	n := newNode()
	w := newWorker(&n.pool.cfg, testPod("a"), false)
	ran, release := 0, make(chan struct{})
	begin := func() {
		w.begin(context.Background(), stepSandbox+"s0", false, func(context.Context) { ran++; <-release })
	}
	begin()
	w.snapshot()
	close(release)
	w.steps.wait()
	begin()
	w.steps.wait()
	if ran != 1 {
		t.Errorf("ran %d times in one pass", ran)
	}
	w.snapshot()
	begin()
	w.steps.wait()
	if ran != 2 {
		t.Errorf("ran %d times, want it again in the next pass", ran)
	}
}

// TestGrantDuringPass: a pass that began before a resize was granted does not take it for completed.
func TestGrantDuringPass(t *testing.T) {
	n := newNode()
	w := newWorker(&n.pool.cfg, testPod("a"), false)
	d, o := w.snapshot()
	w.resize.progress = &report.Resize{Generation: 2}
	resizer{w}.see(&d, &o)
	if w.resize.progress == nil {
		t.Error("the resize counts as completed")
	}
	d, o = w.snapshot()
	resizer{w}.see(&d, &o)
	if w.resize.progress != nil {
		t.Error("with nothing to change it does not count as completed in the next pass")
	}
}
