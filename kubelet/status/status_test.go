package status

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

func testPod() *v1.Pod {
	p := &v1.Pod{}
	p.Name, p.Namespace, p.UID, p.ResourceVersion = "p", "ns", "u", "5"
	p.Status.Phase = v1.PodPending
	p.Status.Conditions = []v1.PodCondition{{Type: "x.y/gate", Status: v1.ConditionTrue}}
	return p
}

func TestPatch(t *testing.T) {
	p := testPod()
	st := *p.Status.DeepCopy()
	if patch, err := Patch(p, &st); err != nil || patch != nil {
		t.Fatalf("nothing has changed: %s %v", patch, err)
	}
	st.Phase = v1.PodRunning
	st.Conditions = append(st.Conditions, v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionTrue})
	patch, err := Patch(p, &st)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Metadata struct{ UID string }
		Status   struct {
			Phase      string
			Conditions []map[string]any
		}
	}
	if err := json.Unmarshal(patch, &got); err != nil {
		t.Fatal(err)
	}
	if got.Metadata.UID != "u" || got.Status.Phase != "Running" || len(got.Status.Conditions) != 1 || got.Status.Conditions[0]["type"] != "Ready" {
		t.Errorf("%s", patch)
	}
}

// TestWriter: statuses set while a write is under way are folded into one, failures are repeated, and the last is never lost.
func TestWriter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := testPod()
		client := fake.NewSimpleClientset(p)
		var written []v1.PodPhase
		failures := 2
		client.PrependReactor("patch", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
			time.Sleep(time.Second)
			if failures > 0 {
				failures--
				return true, nil, errors.New("the server is away")
			}
			var body v1.Pod
			if err := json.Unmarshal(a.(clienttesting.PatchAction).GetPatch(), &body); err != nil {
				return true, nil, err
			}
			written = append(written, body.Status.Phase)
			got := testPod()
			got.ResourceVersion, got.Status.Phase = "6", body.Status.Phase
			return true, got, nil
		})
		w := New(Config{Client: client, Target: func(p *v1.Pod) *v1.Pod { return p }, Log: slog.New(slog.DiscardHandler)})
		defer w.Close()
		set := func(phase v1.PodPhase) {
			st := *p.Status.DeepCopy()
			st.Phase = phase
			w.Set(p, st)
		}
		set(v1.PodRunning)
		time.Sleep(time.Millisecond)
		set(v1.PodUnknown)
		set(v1.PodFailed)
		if err := w.Flush(context.Background(), p.UID); err != nil {
			t.Fatal(err)
		}
		if len(written) != 1 || written[0] != v1.PodFailed {
			t.Errorf("written %v", written)
		}
		set(v1.PodFailed)
		if err := w.Flush(context.Background(), p.UID); err != nil {
			t.Fatal(err)
		}
		if len(written) != 1 {
			t.Errorf("the same was written again: %v", written)
		}
	})
}

// TestLingers: what only says that a pod is on its way waits to be overtaken; everything else, and who waits for it, does not wait.
func TestLingers(t *testing.T) {
	making := v1.PodStatus{Phase: v1.PodPending, QOSClass: v1.PodQOSBurstable, ContainerStatuses: []v1.ContainerStatus{
		{Name: "c", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}}
	further, made, failing, again, running := *making.DeepCopy(), *making.DeepCopy(), *making.DeepCopy(), *making.DeepCopy(), *making.DeepCopy()
	further.PodIP = "10.0.0.1"
	made.ContainerStatuses[0].State.Waiting.Reason, made.ContainerStatuses[0].ContainerID = "", "skiff://1"
	again.ContainerStatuses[0] = *made.ContainerStatuses[0].DeepCopy()
	again.ContainerStatuses[0].LastTerminationState.Terminated = &v1.ContainerStateTerminated{ExitCode: 1}
	failing.ContainerStatuses[0].State.Waiting.Reason = "ErrImagePull"
	running.Phase, running.ContainerStatuses[0].State = v1.PodRunning, v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	for name, c := range map[string]struct {
		sets   []v1.PodStatus
		flush  bool
		writes int
		after  time.Duration // the last write since the last set
	}{
		"on its way":                 {sets: []v1.PodStatus{making}, writes: 1, after: linger},
		"on its way, twice":          {sets: []v1.PodStatus{making, further}, writes: 1, after: linger - 100*time.Millisecond},
		"on its way, then running":   {sets: []v1.PodStatus{making, further, running}, writes: 1},
		"container made":             {sets: []v1.PodStatus{making, made}, writes: 1, after: linger - 100*time.Millisecond},
		"made, then running":         {sets: []v1.PodStatus{making, made, running}, writes: 1},
		"made once more":             {sets: []v1.PodStatus{again}, writes: 1},
		"on its way, then held up":   {sets: []v1.PodStatus{making, failing}, writes: 1},
		"held up":                    {sets: []v1.PodStatus{failing}, writes: 1},
		"running, then on its way":   {sets: []v1.PodStatus{running, making}, writes: 2, after: linger},
		"on its way, and waited for": {sets: []v1.PodStatus{making}, flush: true, writes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := testPod()
				client := fake.NewSimpleClientset(p)
				writes, last := 0, time.Time{}
				client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
					writes, last = writes+1, time.Now()
					return false, nil, nil
				})
				w := New(Config{Client: client, Target: func(p *v1.Pod) *v1.Pod { return p }, Log: slog.New(slog.DiscardHandler)})
				defer w.Close()
				var set time.Time
				for i, st := range c.sets {
					if i > 0 {
						time.Sleep(100 * time.Millisecond)
					}
					set = time.Now()
					w.Set(p, st)
				}
				if c.flush {
					if err := w.Flush(context.Background(), p.UID); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if writes != c.writes || last.Sub(set) != c.after {
					t.Errorf("%d writes, the last after %v", writes, last.Sub(set))
				}
			})
		})
	}
}

// TestSameAgain: what the API says already is not written again, unless somebody has changed it there.
func TestSameAgain(t *testing.T) {
	inAPI := testPod()
	inAPI.ResourceVersion = "5"
	client := fake.NewSimpleClientset(inAPI)
	writes := 0
	client.PrependReactor("patch", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		writes++
		got := testPod()
		got.ResourceVersion, got.Status.Phase = "6", v1.PodRunning
		return true, got, nil
	})
	w := New(Config{Client: client, Target: func(*v1.Pod) *v1.Pod { return inAPI }, Log: slog.New(slog.DiscardHandler)})
	defer w.Close()
	for i, step := range []struct {
		version string
		phase   v1.PodPhase
		ready   bool
		writes  int
	}{
		{"5", v1.PodPending, false, 1}, // not seen yet
		{"5", v1.PodPending, false, 1},
		{"6", v1.PodRunning, false, 1},
		{"7", v1.PodRunning, false, 1}, // something else of the pod has changed
		{"7", v1.PodRunning, false, 1},
		{"8", v1.PodPending, false, 2}, // somebody has taken it back
		{"8", v1.PodPending, true, 3},  // its status is another
	} {
		inAPI = testPod()
		inAPI.ResourceVersion, inAPI.Status.Phase = step.version, step.phase
		st := *testPod().Status.DeepCopy()
		st.Phase = v1.PodRunning
		if step.ready {
			st.Conditions = append(st.Conditions, v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionTrue})
		}
		w.Set(inAPI, st)
		if err := w.Flush(context.Background(), inAPI.UID); err != nil {
			t.Fatal(err)
		}
		if writes != step.writes {
			t.Fatalf("step %d: %d writes, want %d", i, writes, step.writes)
		}
	}
}

func TestNoTarget(t *testing.T) {
	client := fake.NewSimpleClientset()
	w := New(Config{Client: client, Target: func(*v1.Pod) *v1.Pod { return nil }, Log: slog.New(slog.DiscardHandler)})
	defer w.Close()
	w.Set(testPod(), v1.PodStatus{Phase: v1.PodRunning})
	if err := w.Flush(context.Background(), "u"); err != nil || len(client.Actions()) != 0 {
		t.Error(err, client.Actions())
	}
}
