package worker

import (
	"testing"
	"testing/synctest"

	v1 "k8s.io/api/core/v1"
)

// TestDiscard: a pod that has finished stays as it is when the runtime has nothing of it any more, also for the next kubelet; what
// runs, and what is static, is left alone.
func TestDiscard(t *testing.T) {
	play(t, func(n *node) {
		p := testPod("a")
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		n.pool.Update(p, false)
		synctest.Wait()
		if err := Discard(t.Context(), n.pool); err != nil || n.running() != 1 {
			t.Fatalf("a pod that runs was discarded: %v, %d running", err, n.running())
		}
		n.exit("a", 3)
		synctest.Wait()
		before := n.statuses["u"]
		if before.Phase != v1.PodFailed || before.ContainerStatuses[0].State.Terminated == nil {
			t.Fatalf("%+v", before)
		}
		if err := Discard(t.Context(), n.pool); err != nil || len(n.sandboxes) != 0 {
			t.Errorf("%v, sandboxes %v", err, n.sandboxes)
		}
		n.happened()
		synctest.Wait()
		after := n.statuses["u"]
		if after.Phase != v1.PodFailed || after.ContainerStatuses[0].State.Terminated == nil || after.ContainerStatuses[0].State.Terminated.ExitCode != 3 || len(n.sandboxes)+len(n.containers) != 0 {
			t.Errorf("after it was discarded: %+v, sandboxes %v", after, n.sandboxes)
		}
		n.pool.Remove("u")
		synctest.Wait()
	})
}

// TestDiscardStatic: that a static pod has finished only its containers tell.
func TestDiscardStatic(t *testing.T) {
	play(t, func(n *node) {
		p := testPod("a")
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		n.pool.Update(p, true)
		synctest.Wait()
		n.exit("a", 0)
		synctest.Wait()
		if err := Discard(t.Context(), n.pool); err != nil || len(n.containers) != 1 || n.phase("u") != v1.PodSucceeded {
			t.Errorf("%v, %v, %s", err, n.containers, n.phase("u"))
		}
		n.pool.Remove("u")
		synctest.Wait()
	})
}
