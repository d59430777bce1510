package worker

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

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

// TestDiscardOlder: of a pod that goes on only dead containers go that another dead one has followed; how often a container was
// restarted, and its last state, stay right, also for the next kubelet.
func TestDiscardOlder(t *testing.T) {
	play(t, func(n *node) {
		p := testPod("a")
		n.pool.Update(p, false)
		synctest.Wait()
		discard := func(kept int) {
			t.Helper()
			if err := Discard(t.Context(), n.pool); err != nil || len(n.containers) != kept {
				t.Errorf("%v, %v", err, n.containers)
			}
			n.happened()
			synctest.Wait()
		}
		check := func(state string, restarts, last int32) {
			t.Helper()
			st := n.statuses["u"].ContainerStatuses[0]
			got := "terminated"
			switch {
			case st.State.Running != nil:
				got = "running"
			case st.State.Waiting != nil:
				got = st.State.Waiting.Reason
			}
			code := int32(-1)
			if st.LastTerminationState.Terminated != nil {
				code = st.LastTerminationState.Terminated.ExitCode
			}
			if got != state || st.RestartCount != restarts || code != last {
				t.Errorf("%s, %d restarts, last %d; want %s, %d, %d", got, st.RestartCount, code, state, restarts, last)
			}
		}
		n.exit("a", 3)
		synctest.Wait()
		check("running", 1, 3)
		discard(2) // the dead one is the last state of the one that runs
		check("running", 1, 3)
		n.exit("a", 4)
		synctest.Wait()
		check("CrashLoopBackOff", 1, 4)
		discard(1)
		check("CrashLoopBackOff", 1, 4)
		time.Sleep(time.Minute) // past the back-off
		synctest.Wait()
		check("running", 2, 4)
		n.exit("a", 5)
		synctest.Wait()
		discard(1)
		check("CrashLoopBackOff", 2, 5)
		n.pool.Update(deleting(p, 30), false)
		synctest.Wait()
		check("terminated", 2, -1) // the one before is not known any more, and it is not its own
	})
}

// TestDiscardThenRestart: a kubelet that starts when the older containers are gone counts on, also without a status in the API.
func TestDiscardThenRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		kubelet := func(lives func()) {
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error)
			n.pool = n.newPool()
			go func() { done <- n.pool.Run(ctx) }()
			n.pool.Update(testPod("a"), true)
			synctest.Wait()
			lives()
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		kubelet(func() {
			for range 2 {
				n.exit("a", 3)
				synctest.Wait()
			}
			if err := Discard(t.Context(), n.pool); err != nil || len(n.containers) != 1 {
				t.Errorf("%v, %v", err, n.containers)
			}
		})
		last := n.containers[0].ID
		delete(n.statuses, "u")
		kubelet(func() {
			time.Sleep(time.Minute) // past any back-off
			synctest.Wait()
			st := n.statuses["u"].ContainerStatuses[0]
			if st.State.Running == nil || st.RestartCount != 2 || st.LastTerminationState.Terminated == nil ||
				st.LastTerminationState.Terminated.ContainerID != "test://"+last {
				t.Errorf("%+v", st)
			}
		})
	})
}
