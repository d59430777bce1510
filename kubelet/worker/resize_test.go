package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skiff-node/skiff/kubelet/pod/resize"
	"github.com/skiff-node/skiff/kubelet/worker/record"
)

func sized(uid types.UID, cpu string, generation int64) *v1.Pod {
	p := testPod("a")
	p.UID, p.Name, p.Generation = uid, string(uid), generation
	p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}
	return p
}

// small lets the node's pods have two CPUs.
func small(n *node) {
	n.pool.cfg.Resize = func(p *v1.Pod, granted resize.Allocation, others []*v1.Pod) *resize.Refusal {
		return resize.Decide(p, granted, others, resize.Node{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}})
	}
}

func (n *node) resizeConditions(uid types.UID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	out := ""
	for _, c := range n.statuses[uid].Conditions {
		if c.Type == v1.PodResizePending || c.Type == v1.PodResizeInProgress {
			out += fmt.Sprintf("%s %s %d;", c.Type, c.Reason, c.ObservedGeneration)
		}
	}
	return out
}

func (n *node) cpuOf(uid types.UID) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := n.statuses[uid].ContainerStatuses[0]
	has, granted := st.Resources.Requests[v1.ResourceCPU], st.AllocatedResources[v1.ResourceCPU]
	return has.String() + "/" + granted.String()
}

func TestResize(t *testing.T) {
	play(t, func(n *node) {
		small(n)
		n.pool.Update(sized("u", "500m", 1), false)
		synctest.Wait()
		n.pool.Update(sized("u", "1", 2), false)
		synctest.Wait()
		if fmt.Sprint(n.updates) != "[a-1=1]" || n.resizeConditions("u") != "" || n.cpuOf("u") != "1/1" || n.count != 1 {
			t.Errorf("updates %v, %s, %s", n.updates, n.resizeConditions("u"), n.cpuOf("u"))
		}
		n.pool.Update(sized("u", "3", 3), false)
		synctest.Wait()
		if len(n.updates) != 1 || n.resizeConditions("u") != "PodResizePending Deferred 3;" || n.cpuOf("u") != "1/1" {
			t.Errorf("too much: updates %v, %s, %s", n.updates, n.resizeConditions("u"), n.cpuOf("u"))
		}
		n.pool.Update(sized("u", "1", 4), false)
		synctest.Wait()
		if n.resizeConditions("u") != "" {
			t.Errorf("taken back: %s", n.resizeConditions("u"))
		}
	})
}

// TestResizeDeferred: a resize that does not fit is granted when another pod has gone.
func TestResizeDeferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		small(n)
		pl := n.pool
		first, second := newWorker(&pl.cfg, sized("u", "1", 1), false), newWorker(&pl.cfg, sized("v", "1", 1), false)
		pl.workers["u"], pl.workers["v"] = first, second
		pl.Update(sized("u", "1500m", 2), false)
		if r := first.resize.pending; r == nil || r.Reason != v1.PodReasonDeferred {
			t.Fatalf("%+v", r)
		}
		pl.gone("v", second)
		if r := first.resize.granted["a"].Requests[v1.ResourceCPU]; first.resize.pending != nil || r.String() != "1500m" {
			t.Errorf("after the other has gone: %+v, granted %s", first.resize.pending, r.String())
		}
		if !slices.Contains(n.events, "ResizeDeferred") {
			t.Errorf("events %v", n.events)
		}
	})
}

func TestResizeFails(t *testing.T) {
	play(t, func(n *node) {
		n.pool.Update(sized("u", "500m", 1), false)
		synctest.Wait()
		n.mu.Lock()
		n.failing["update a"] = errors.New("busy")
		n.mu.Unlock()
		n.pool.Update(sized("u", "1", 2), false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.resizeConditions("u") != "PodResizeInProgress Error 2;" || n.cpuOf("u") != "500m/1" {
			t.Errorf("%s, %s", n.resizeConditions("u"), n.cpuOf("u"))
		}
		if fmt.Sprint(n.events) != "[ResizeError]" {
			t.Errorf("told more than once: %v", n.events)
		}
		n.mu.Lock()
		delete(n.failing, "update a")
		n.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.resizeConditions("u") != "" || n.cpuOf("u") != "1/1" {
			t.Errorf("%s, %s", n.resizeConditions("u"), n.cpuOf("u"))
		}
	})
}

// TestResizeInTurn: of resizes of equal rank that which has waited longest is granted first, whatever the age of the pods; how long,
// the condition tells that a kubelet before this one has written.
func TestResizeInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for first, since := range map[types.UID]map[types.UID]int{
			"w": nil,                // w waits since before u in this kubelet
			"u": {"u": 300, "w": 5}, // seconds ago, by the conditions that there are
		} {
			n := newNode()
			small(n)
			pl := n.pool
			for uid, cpu := range map[types.UID]string{"u": "500m", "v": "1", "w": "500m"} {
				p := sized(uid, cpu, 1)
				if ago := since[uid]; ago > 0 {
					p.Status.Conditions = []v1.PodCondition{{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: v1.PodReasonDeferred,
						LastTransitionTime: metav1.NewTime(time.Now().Add(-time.Duration(ago) * time.Second).Truncate(time.Second))}}
				}
				pl.workers[uid] = newWorker(&pl.cfg, p, false)
			}
			want := func(uid types.UID, age time.Duration) {
				p := sized(uid, "1500m", 2)
				p.CreationTimestamp = metav1.NewTime(time.Now().Add(-age))
				pl.Update(p, false)
				if r := pl.workers[uid].resize.pending; r == nil || r.Reason != v1.PodReasonDeferred {
					t.Fatalf("%s: %+v", uid, r)
				}
			}
			want("w", time.Minute)
			time.Sleep(10 * time.Millisecond)
			want("u", time.Hour)
			pl.gone("v", pl.workers["v"])
			for _, uid := range []types.UID{"u", "w"} {
				if granted := pl.workers[uid].resize.pending == nil; granted != (uid == first) {
					t.Errorf("conditions %v: %s granted: %v, want %s", since, uid, granted, first)
				}
			}
		}
	})
}

// TestResizeBelowUsage: a memory limit is not set below what is used (the fake containers use 50 MiB).
func TestResizeBelowUsage(t *testing.T) {
	play(t, func(n *node) {
		limited := func(memory string, generation int64) *v1.Pod {
			p := sized("u", "1", generation)
			p.Spec.Containers[0].Resources.Limits = v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}
			return p
		}
		n.pool.Update(limited("100Mi", 1), false)
		synctest.Wait()
		n.pool.Update(limited("40Mi", 2), false)
		synctest.Wait()
		if len(n.updates) != 0 || n.resizeConditions("u") != "PodResizeInProgress Error 2;" {
			t.Errorf("%v, %s", n.updates, n.resizeConditions("u"))
		}
		n.pool.Update(limited("60Mi", 3), false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(n.updates) != 1 || n.resizeConditions("u") != "" {
			t.Errorf("%v, %s", n.updates, n.resizeConditions("u"))
		}
	})
}

func cpuOfPod(p *v1.Pod) string {
	r := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
	return r.Cpu().String()
}

// TestResizeTellsRuntime: the runtime hears of the pod's new resources first, and may refuse them.
func TestResizeTellsRuntime(t *testing.T) {
	play(t, func(n *node) {
		n.pool.Update(sized("u", "500m", 1), false)
		synctest.Wait()
		n.failing["sandbox"] = errors.New("no")
		n.pool.Update(sized("u", "1", 2), false)
		synctest.Wait()
		if len(n.updates) != 0 || n.resizeConditions("u") != "PodResizeInProgress Error 2;" || n.cpuOf("u") != "500m/1" {
			t.Errorf("refused: %v, %s, %s", n.updates, n.resizeConditions("u"), n.cpuOf("u"))
		}
		n.mu.Lock()
		delete(n.failing, "sandbox")
		n.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(n.told) != 1 || !strings.HasSuffix(n.told[0], ": 500m->1") || n.cpuOf("u") != "1/1" {
			t.Errorf("told %v, %s", n.told, n.cpuOf("u"))
		}
		n.mu.Lock()
		n.failing["update a"] = errors.New("busy")
		n.mu.Unlock()
		n.pool.Update(sized("u", "2", 3), false)
		synctest.Wait()
		if got := strings.Join(n.told[1:], " "); !strings.Contains(got, "1->2") || !strings.Contains(got, "2->1") {
			t.Errorf("told %v, want that it is as before", n.told)
		}
	})
}

// TestResizePodLevel: the limits of the pod as a whole change, and with them those of the container that has none.
func TestResizePodLevel(t *testing.T) {
	whole := func(cpu, memory string, generation int64) *v1.Pod {
		p := sized("u", "500m", generation)
		p.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)},
			Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse(memory)}}
		return p
	}
	play(t, func(n *node) {
		n.pool.Update(whole("1", "100Mi", 1), false)
		synctest.Wait()
		n.pool.Update(whole("2", "200Mi", 2), false)
		synctest.Wait()
		st := n.statuses["u"]
		if fmt.Sprint(n.updates) != "[a-1=500m]" || len(n.told) != 1 || n.resizeConditions("u") != "" || st.Resources.Limits.Memory().String() != "200Mi" {
			t.Errorf("updates %v, told %v, %s, %v", n.updates, n.told, n.resizeConditions("u"), st.Resources)
		}
		n.pool.Update(whole("2", "55Mi", 3), false) // the pod uses 60 MiB
		synctest.Wait()
		if n.resizeConditions("u") != "PodResizeInProgress Error 3;" || n.statuses["u"].Resources.Limits.Memory().String() != "200Mi" {
			t.Errorf("below usage: %s, %v", n.resizeConditions("u"), n.statuses["u"].Resources)
		}
	})
}

// TestResizeKept: a kubelet killed before it could report anything leaves the right numbers to the next one.
func TestResizeKept(t *testing.T) {
	pods := t.TempDir()
	if err := os.Mkdir(filepath.Join(pods, "u"), 0o750); err != nil {
		t.Fatal(err)
	}
	records := record.Files(pods)
	synctest.Test(t, func(t *testing.T) {
		life := func(n *node) (stop func()) {
			n.pool = n.newPool()
			n.pool.cfg.Records = records
			small(n)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- n.pool.Run(ctx) }()
			synctest.Wait()
			return func() { cancel(); <-ended }
		}
		n := newNode()
		stop := life(n)
		n.pool.Update(sized("u", "500m", 1), false)
		synctest.Wait()
		n.failing["update a"] = errors.New("busy")
		n.pool.Update(sized("u", "1", 2), false) // granted, and not carried out
		synctest.Wait()
		stop()
		n.mu.Lock()
		delete(n.failing, "update a")
		n.mu.Unlock()
		stop = life(n)
		n.pool.Update(sized("u", "3", 3), false) // edited meanwhile, and no status was ever written
		synctest.Wait()
		if fmt.Sprint(n.updates) != "[a-1=1]" || n.cpuOf("u") != "1/1" || n.resizeConditions("u") != "PodResizePending Deferred 3;" || n.count != 1 {
			t.Errorf("updates %v, %s, %s, %d starts", n.updates, n.cpuOf("u"), n.resizeConditions("u"), n.count)
		}
		stop()
		kept, ok, err := records.Load("u")
		if err != nil || !ok || kept.Actual["a"].ID != "a-1" {
			t.Fatalf("%+v, %v", kept, err)
		}
		granted := kept.Granted["a"].Requests[v1.ResourceCPU]
		if granted.String() != "1" {
			t.Errorf("granted %s", granted.String())
		}
	})
}

// TestNothingKept: there is no record of a pod that asks for nothing.
func TestNothingKept(t *testing.T) {
	pods := t.TempDir()
	for _, uid := range []string{"u", "sized"} {
		if err := os.Mkdir(filepath.Join(pods, uid), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	records := record.Files(pods)
	play(t, func(n *node) {
		n.pool.cfg.Records = records
		n.pool.Update(testPod("a"), false)
		n.pool.Update(sized("sized", "500m", 1), false)
		synctest.Wait()
	})
	for uid, want := range map[types.UID]bool{"u": false, "sized": true} {
		if _, kept, err := records.Load(uid); err != nil || kept != want {
			t.Errorf("%s: kept %v, %v", uid, kept, err)
		}
	}
}
