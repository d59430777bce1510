package worker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/probe"
	"github.com/skiff-node/skiff/kubelet/runtime"
	"github.com/skiff-node/skiff/kubelet/volume"
)

// node is a whole node in memory: a runtime that holds state and refuses wrong use, volumes, cgroups, an API.
type node struct {
	mu         sync.Mutex
	pool       *Pool
	sandboxes  []pod.Sandbox
	containers []pod.Container
	volumes    map[types.UID]bool
	cgroups    map[types.UID]bool
	statuses   map[types.UID]v1.PodStatus
	events     []string
	deleted    []types.UID
	order      []string // what was taken down, in order
	count      int
	// faults, by container name, fail the next start; slow makes a start take so long; stubborn containers ignore TERM.
	faults   map[string]*runtime.Fault
	slow     time.Duration
	hook     time.Duration // a started container's postStart hook takes so long
	stubborn bool
	failing  map[string]error // by step
	updates  []string         // of running containers
	told     []string         // what the runtime was told of the sandbox
	adopted  []types.UID      // cgroups that were taken over
	asked    int              // how often the runtime was asked what it has
}

func newNode() *node {
	n := &node{volumes: map[types.UID]bool{}, cgroups: map[types.UID]bool{}, statuses: map[types.UID]v1.PodStatus{},
		faults: map[string]*runtime.Fault{}, failing: map[string]error{}}
	n.pool = n.newPool()
	return n
}

func (n *node) newPool() *Pool {
	return NewPool(Config{Runtime: n, Volumes: n, Cgroups: n, Probes: n, Statuses: n, Events: n, Log: slog.New(slog.DiscardHandler),
		HostIPs: func() []string { return []string{"192.168.0.1"} },
		Delete: func(_ context.Context, p *v1.Pod) error {
			n.mu.Lock()
			defer n.mu.Unlock()
			n.deleted = append(n.deleted, p.UID)
			n.order = append(n.order, "api")
			return nil
		}})
}

// step notes what is taken down, and fails it if the test says so.
func (n *node) step(name string) error {
	if err := n.failing[name]; err != nil {
		delete(n.failing, name)
		return err
	}
	n.order = append(n.order, name)
	return nil
}

func (n *node) Name() string { return "test" }

func (n *node) Observe(context.Context, types.UID) ([]pod.Sandbox, []pod.Container, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if err := n.failing["observe"]; err != nil {
		return nil, nil, err
	}
	return append([]pod.Sandbox(nil), n.sandboxes...), append([]pod.Container(nil), n.containers...), nil
}

func (n *node) CreateSandbox(_ context.Context, p *v1.Pod, attempt uint32, parent string) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.volumes[p.UID] || !n.cgroups[p.UID] || parent == "" {
		return "", errors.New("volumes and cgroup come first")
	}
	id := fmt.Sprintf("s%d", attempt)
	n.sandboxes = append([]pod.Sandbox{{ID: id, Ready: true, Attempt: attempt, IPs: []string{"10.0.0.1"}}}, n.sandboxes...)
	return id, nil
}

func (n *node) SandboxIPs(context.Context, string) ([]string, error) {
	return []string{"10.0.0.1"}, nil
}

func (n *node) StopSandbox(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.containers {
		if n.containers[i].State == pod.Running {
			return errors.New("a container still runs")
		}
	}
	for i := range n.sandboxes {
		if n.sandboxes[i].ID == id {
			n.sandboxes[i].Ready = false
		}
	}
	return n.step("stop sandbox")
}

func (n *node) RemoveSandbox(context.Context, string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sandboxes, n.containers = nil, nil
	return n.step("remove sandbox")
}

func (n *node) StartContainer(ctx context.Context, req *runtime.Request) error {
	if n.slow > 0 {
		select {
		case <-time.After(n.slow):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	name := req.Start.Name
	if f := n.faults[name]; f != nil {
		delete(n.faults, name)
		return f
	}
	for _, c := range n.containers {
		if c.Name == name && c.State == pod.Running {
			return &runtime.Fault{Reason: "Twice", Message: name + " runs already"}
		}
	}
	n.count++
	n.containers = append([]pod.Container{{ID: fmt.Sprintf("%s-%d", name, n.count), Name: name, State: pod.Running, SandboxID: req.SandboxID,
		CreatedAt: time.Now(), StartedAt: time.Now(), Restarts: max(req.Start.Restarts, 0)}}, n.containers...)
	if n.hook > 0 {
		n.mu.Unlock()
		n.happened()
		time.Sleep(n.hook)
		n.mu.Lock()
	}
	return nil
}

func (n *node) StopContainer(ctx context.Context, id string, grace time.Duration) error {
	if n.stubborn {
		select {
		case <-time.After(grace):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	n.exit(id, 143)
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.step("stop " + strings.Split(id, "-")[0])
}

// happened wakes all workers, as events of the runtime would.
func (n *node) happened() {
	for _, p := range n.pool.Pods() {
		n.pool.Changed(p.UID)
	}
}

// exit ends a container, given by ID or name, and wakes its worker as the runtime's event would.
func (n *node) exit(which string, code int32) {
	n.mu.Lock()
	for i := range n.containers {
		if c := &n.containers[i]; (c.ID == which || c.Name == which) && c.State == pod.Running {
			c.State, c.ExitCode, c.FinishedAt = pod.Exited, code, time.Now()
		}
	}
	n.mu.Unlock()
	n.happened()
}

func (n *node) RemoveContainer(_ context.Context, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.containers {
		if n.containers[i].ID == id {
			n.containers = append(n.containers[:i:i], n.containers[i+1:]...)
			break
		}
	}
	return nil
}

func (n *node) RunHook(ctx context.Context, _ *v1.Pod, _, _ string, _ *v1.LifecycleHandler) error {
	<-ctx.Done()
	return ctx.Err()
}

func (n *node) RemoveLogs(*v1.Pod) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.step("logs")
}

func (n *node) Setup(_ context.Context, p *v1.Pod) (map[string]volume.Place, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.failing["volumes"]; err != nil {
		return nil, err
	}
	n.volumes[p.UID] = true
	return nil, nil
}

func (n *node) Teardown(_ context.Context, uid types.UID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.volumes, uid)
	return n.step("volumes")
}

func (n *node) EnsurePod(p *v1.Pod) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cgroups[p.UID] = true
	return "/kubepods", nil
}

func (n *node) Adopt(p *v1.Pod) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.adopted = append(n.adopted, p.UID)
}

func (n *node) RemovePod(_ context.Context, uid types.UID) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cgroups, uid)
	return n.step("cgroup")
}

func (n *node) ResizePod(_ *v1.Pod, change func() error) error { return change() }

func (n *node) UpdateContainer(_ context.Context, p *v1.Pod, name, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.failing["update "+name]; err != nil {
		return err
	}
	cpu := pod.Find(p, name).Resources.Requests[v1.ResourceCPU]
	n.updates = append(n.updates, id+"="+cpu.String())
	return nil
}

func (n *node) UpdateSandbox(_ context.Context, had, shall *v1.Pod, id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.failing["sandbox"]; err != nil {
		return err
	}
	n.told = append(n.told, id+": "+cpuOfPod(had)+"->"+cpuOfPod(shall))
	return nil
}

func (n *node) PodMemoryUsage(context.Context, string) (int64, error) { return 60 << 20, nil }

func (n *node) MemoryUsage(context.Context, string) (int64, error) { return 50 << 20, nil }

func (n *node) Sync(*v1.Pod, []probe.Target)                   {}
func (n *node) Verdicts(types.UID) map[string]pod.Probes       { return nil }
func (n *node) Flush(context.Context, types.UID) error         { return nil }
func (n *node) Forget(types.UID)                               {}
func (n *node) Normal(*v1.Pod, string, string, string, ...any) {}

func (n *node) Warning(_ *v1.Pod, container, reason, format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.events = append(n.events, reason)
}

func (n *node) Set(p *v1.Pod, st v1.PodStatus) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.statuses[p.UID] = st
}

func (n *node) phase(uid types.UID) v1.PodPhase {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.statuses[uid].Phase
}

func (n *node) running() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	count := 0
	for _, c := range n.containers {
		if c.State == pod.Running {
			count++
		}
	}
	return count
}

func (n *node) deletions() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.deleted)
}

func testPod(containers ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u"}}
	p.Spec.RestartPolicy = v1.RestartPolicyAlways
	for _, name := range containers {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: name, Image: "i"})
	}
	return p
}

func deleting(p *v1.Pod, grace int64) *v1.Pod {
	p = p.DeepCopy()
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	return p
}

// play runs a scenario on a node in a bubble of time, and checks at its end that nothing is left running.
func play(t *testing.T, scenario func(n *node)) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		pool := n.pool
		go func() { done <- pool.Run(ctx) }()
		synctest.Wait()
		scenario(n)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestLife(t *testing.T) {
	play(t, func(n *node) {
		p := testPod("a", "b")
		n.pool.Update(p, false)
		synctest.Wait()
		if n.phase("u") != v1.PodRunning || n.running() != 2 {
			t.Fatalf("phase %s, %d running", n.phase("u"), n.running())
		}
		n.pool.Update(deleting(p, 30), false)
		synctest.Wait()
		if n.deletions() != 1 || n.running() != 0 || len(n.volumes) != 0 || len(n.cgroups) != 0 {
			t.Fatalf("%+v", n)
		}
		down := slices.DeleteFunc(slices.Clone(n.order), func(s string) bool { return s == "stop a" || s == "stop b" })
		// A sandbox may be stopped twice when a pass looked just before the first time: that is harmless.
		if got := strings.Join(slices.Compact(down), ", "); got != "stop sandbox, volumes, cgroup, remove sandbox, logs, api" {
			t.Errorf("order: %s", got)
		}
		n.pool.Remove("u")
		synctest.Wait()
		if n.pool.Has("u") {
			t.Error("the worker is still there")
		}
	})
}

// TestAsksRuntimeOnlyAfterChanges: what the API or a probe tells is no reason to ask the runtime again; its own events are.
func TestAsksRuntimeOnlyAfterChanges(t *testing.T) {
	play(t, func(n *node) {
		p := testPod("a")
		n.pool.Update(p, false)
		synctest.Wait()
		n.mu.Lock()
		before := n.asked
		n.mu.Unlock()
		for range 3 {
			p = p.DeepCopy()
			n.pool.Update(p, false)
			n.pool.Wake(p.UID)
			synctest.Wait()
		}
		n.mu.Lock()
		if n.asked != before {
			t.Errorf("asked %d times for nothing", n.asked-before)
		}
		n.sandboxes[0].Ready, n.containers[0].State = false, pod.Exited // lost behind the worker's back
		n.mu.Unlock()
		n.pool.Changed(p.UID)
		synctest.Wait()
		if n.running() != 1 {
			t.Error("the loss is not seen")
		}
	})
}

func TestCleanUpIsRepeated(t *testing.T) {
	play(t, func(n *node) {
		p := testPod("a")
		n.pool.Update(p, false)
		synctest.Wait()
		n.mu.Lock()
		for _, step := range []string{"stop a", "stop sandbox", "volumes", "cgroup", "remove sandbox", "logs"} {
			if step != "volumes" {
				n.failing[step] = errors.New("not now")
			}
		}
		n.mu.Unlock()
		n.pool.Update(deleting(p, 1), false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.deletions() != 1 || len(n.failing) != 0 {
			t.Errorf("deleted %v, not yet failed %v", n.deleted, n.failing)
		}
	})
}

func TestDeleteWhilePulling(t *testing.T) {
	play(t, func(n *node) {
		n.slow = time.Hour
		p := testPod("a")
		n.pool.Update(p, false)
		time.Sleep(time.Minute)
		n.pool.Update(deleting(p, 30), false)
		synctest.Wait()
		if n.deletions() != 1 {
			t.Error("the deletion waits for the pull")
		}
	})
}

func TestGraceShortened(t *testing.T) {
	play(t, func(n *node) {
		n.stubborn = true
		p := testPod("a")
		n.pool.Update(p, false)
		synctest.Wait()
		began := time.Now()
		n.pool.Update(deleting(p, 600), false)
		time.Sleep(10 * time.Second)
		n.pool.Update(deleting(p, 3), false)
		for n.deletions() == 0 && time.Since(began) < time.Hour {
			time.Sleep(time.Second)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("took %v", took)
		}
	})
}

// TestPostStart: a container counts as running once its hook is over.
func TestPostStart(t *testing.T) {
	play(t, func(n *node) {
		n.hook = time.Minute
		p := testPod("a")
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{}}
		n.pool.Update(p, false)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n.running() != 1 || n.phase("u") != v1.PodPending {
			t.Errorf("while the hook runs: %d running, phase %s", n.running(), n.phase("u"))
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.phase("u") != v1.PodRunning {
			t.Errorf("after the hook: phase %s", n.phase("u"))
		}
	})
}

func TestHangingHook(t *testing.T) {
	play(t, func(n *node) {
		p := testPod("a")
		p.Spec.Containers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{}}
		n.pool.Update(p, false)
		synctest.Wait()
		n.pool.Update(deleting(p, 10), false)
		time.Sleep(9 * time.Second)
		synctest.Wait()
		if n.deletions() != 0 {
			t.Error("the hook was not waited for")
		}
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if n.deletions() != 1 {
			t.Error("the hook is waited for too long")
		}
	})
}

func TestFaultsAreRetried(t *testing.T) {
	play(t, func(n *node) {
		n.faults["a"] = &runtime.Fault{Reason: runtime.ErrConfig, Message: "no such ConfigMap"}
		n.failing["volumes"] = errors.New("no such Secret")
		n.pool.Update(testPod("a"), false)
		synctest.Wait()
		n.mu.Lock()
		delete(n.failing, "volumes")
		n.mu.Unlock()
		n.pool.Retry("u") // the Secret has appeared
		synctest.Wait()
		if st := n.statuses["u"].ContainerStatuses[0].State.Waiting; st == nil || st.Reason != runtime.ErrConfig {
			t.Fatalf("%+v", n.statuses["u"])
		}
		n.pool.Retry("u")
		synctest.Wait()
		if n.phase("u") != v1.PodRunning {
			t.Errorf("%+v", n.statuses["u"])
		}
		if got := fmt.Sprint(n.events); got != "[FailedMount]" {
			t.Errorf("events %s", got)
		}
	})
}

func TestCrashLoop(t *testing.T) {
	play(t, func(n *node) {
		n.pool.Update(testPod("a"), false)
		synctest.Wait()
		began := time.Now()
		for range 4 {
			n.exit("a", 1)
			for n.running() == 0 {
				time.Sleep(time.Second)
			}
		}
		if took := time.Since(began); took < 70*time.Second || took > 75*time.Second { // looked at each second
			t.Errorf("four restarts took %v, want 0+10+20+40 s", took)
		}
	})
}

// TestRestart: another kubelet finds what the first left, and touches nothing.
func TestRestart(t *testing.T) {
	play(t, func(n *node) {
		p := testPod("a")
		n.pool.Update(p, false)
		synctest.Wait()
		before := n.containers[0].ID
		p = p.DeepCopy()
		p.Status = n.statuses["u"]
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		n.pool = n.newPool()
		go func() { done <- n.pool.Run(ctx) }()
		n.pool.Update(p, false)
		time.Sleep(time.Minute)
		synctest.Wait()
		if len(n.containers) != 1 || n.containers[0].ID != before || n.phase("u") != v1.PodRunning {
			t.Errorf("%+v", n.containers)
		}
		if !slices.Equal(n.adopted, []types.UID{"u"}) {
			t.Errorf("cgroups taken over: %v", n.adopted)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOrphan(t *testing.T) {
	play(t, func(n *node) {
		n.sandboxes = []pod.Sandbox{{ID: "s0", Ready: true, IPs: []string{"10.0.0.1"}}}
		n.containers = []pod.Container{{ID: "a-1", Name: "a", State: pod.Running, SandboxID: "s0"}}
		n.pool.Orphan(testPod("a"))
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.pool.Has("u") || len(n.containers) != 0 || n.deletions() != 0 || len(n.statuses) != 0 {
			t.Errorf("left: %+v, %v", n.containers, n.statuses)
		}
	})
}

// TestStaticReplaced: a changed file is another pod of the same name, which waits until the first is gone.
func TestStaticReplaced(t *testing.T) {
	play(t, func(n *node) {
		old := testPod("a")
		n.pool.Update(old, true)
		synctest.Wait()
		next := testPod("a")
		next.UID = "v"
		n.pool.Update(next, true)
		n.pool.Remove("u")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n.pool.Has("u") || !n.pool.Has("v") || n.running() != 1 || n.phase("v") != v1.PodRunning {
			t.Errorf("%+v", n.containers)
		}
	})
}

func TestRuntimeAway(t *testing.T) {
	play(t, func(n *node) {
		n.failing["observe"] = errors.New("connection refused")
		n.pool.Update(testPod("a"), false)
		time.Sleep(10 * time.Second)
		n.mu.Lock()
		delete(n.failing, "observe")
		n.mu.Unlock()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if n.phase("u") != v1.PodRunning {
			t.Errorf("phase %s", n.phase("u"))
		}
	})
}

// TestPodRunsOn: one that has been running while the kubelet was away is not decided about again. Without an API there is no
// status that tells, and the kubelet may have ended before it had told the API.
func TestPodRunsOn(t *testing.T) {
	for _, static := range []bool{true, false} {
		podRunsOn(t, static)
	}
}

func podRunsOn(t *testing.T, static bool) {
	refuse := func(*v1.Pod, bool, []*v1.Pod) *pod.End {
		return &pod.End{Deadline: time.Now(), Phase: v1.PodFailed, Rejected: true, Reason: "UnexpectedAdmissionError"}
	}
	play(t, func(n *node) {
		n.pool.Update(testPod("a"), static)
		synctest.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		n.pool = n.newPool()
		n.pool.cfg.Admit = refuse
		go func() { done <- n.pool.Run(ctx) }()
		n.pool.Update(testPod("a"), static)
		synctest.Wait()
		if n.phase("u") != v1.PodRunning || n.running() != 1 {
			t.Errorf("phase %s, %d running", n.phase("u"), n.running())
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	play(t, func(n *node) {
		n.pool.cfg.Admit = refuse
		n.pool.Update(testPod("a"), static)
		synctest.Wait()
		if n.phase("u") != v1.PodFailed {
			t.Errorf("one that does not run is %s", n.phase("u"))
		}
	})
}

// TestAdmissionTakesTime: while a pod is taken in, and maybe a device plugin is asked, others can look at the pods and live on.
func TestAdmissionTakesTime(t *testing.T) {
	play(t, func(n *node) {
		Settled(n.pool) // all pods of this runtime have the same containers
		n.pool.cfg.Admit = func(p *v1.Pod, _ bool, active []*v1.Pod) *pod.End {
			if p.UID != "late" {
				return nil
			}
			time.Sleep(time.Minute)
			if list := n.pool.Pods(); len(list) != 1 || len(active) != 1 {
				t.Errorf("%d pods, %d active", len(list), len(active))
			}
			return &pod.End{Deadline: time.Now(), Phase: v1.PodFailed, Rejected: true, Reason: "UnexpectedAdmissionError", Message: "Pod was rejected: no"}
		}
		n.pool.Update(testPod("a"), false)
		late := testPod("a")
		late.UID, late.Name = "late", "late"
		go n.pool.Update(late, false)
		synctest.Wait()
		if n.phase("u") != v1.PodRunning {
			t.Errorf("the other pod is %s", n.phase("u"))
		}
		if !n.pool.Has("late") {
			t.Error("a sweep could take the pod that is being taken in for a former one")
		}
		time.Sleep(2 * time.Minute)
		n.pool.Remove("late")
		synctest.Wait()
		if n.phase("late") != v1.PodFailed || n.pool.Has("late") {
			t.Errorf("the refused pod is %s", n.phase("late"))
		}
	})
}

func TestHealth(t *testing.T) {
	play(t, func(n *node) {
		sick := []v1.ResourceStatus{{Name: "x.y/z", Resources: []v1.ResourceHealth{{ResourceID: "d", Health: v1.ResourceHealthStatusUnhealthy}}}}
		n.pool.cfg.Health = func(*v1.Pod) map[string][]v1.ResourceStatus { return map[string][]v1.ResourceStatus{"a": sick} }
		n.pool.Update(testPod("a", "b"), false)
		synctest.Wait()
		n.mu.Lock()
		defer n.mu.Unlock()
		list := n.statuses["u"].ContainerStatuses
		if len(list) != 2 || len(list[0].AllocatedResourcesStatus) != 1 || list[1].AllocatedResourcesStatus != nil {
			t.Errorf("%+v", list)
		}
	})
}

// TestOver: what a pod had is free before the API can know that the pod is over, and then only.
func TestOver(t *testing.T) {
	play(t, func(n *node) {
		var over []v1.PodPhase
		n.pool.cfg.Over = func(uid types.UID) { over = append(over, n.phase(uid)) }
		p := testPod("a", "b")
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		n.pool.Update(p, false)
		synctest.Wait()
		n.exit("a", 0)
		synctest.Wait()
		if len(over) != 0 {
			t.Error("told while a container runs")
		}
		n.exit("b", 0)
		synctest.Wait()
		if n.phase("u") != v1.PodSucceeded || len(over) != 1 || over[0] != v1.PodRunning {
			t.Errorf("%s: told at %v", n.phase("u"), over)
		}
	})
}

// TestEnded: whoever waits for the end of a pod is told of it once the pod's part of the node has been taken back, and of one that is
// removed or that there is not as well.
func TestEnded(t *testing.T) {
	told := func(c <-chan struct{}) bool {
		select {
		case <-c:
			return true
		default:
			return false
		}
	}
	play(t, func(n *node) {
		var ended <-chan struct{}
		n.pool.cfg.Over = func(types.UID) {
			if told(ended) {
				t.Error("told before what the pod had was taken back")
			}
		}
		p := testPod("a")
		p.Spec.RestartPolicy = v1.RestartPolicyNever
		n.pool.Update(p, false)
		ended = Ended(n.pool, "u")
		synctest.Wait()
		if told(ended) {
			t.Error("told while a container runs")
		}
		n.exit("a", 0)
		synctest.Wait()
		if !told(ended) {
			t.Error("not told")
		}
		for _, uid := range []types.UID{"removed", "done"} {
			p := testPod("a")
			p.UID, p.Name = uid, string(uid)
			if uid == "done" {
				p.Status.Phase = v1.PodSucceeded
			}
			n.pool.Update(p, false)
			if ended := Ended(n.pool, uid); told(ended) != (uid == "done") {
				t.Errorf("%s: %v", uid, told(ended))
			}
		}
		synctest.Wait()
		ended = Ended(n.pool, "removed")
		n.pool.Remove("removed")
		time.Sleep(time.Minute)
		synctest.Wait()
		if !told(ended) || !told(Ended(n.pool, "never was")) {
			t.Error("not told of a removed pod, or of none")
		}
	})
}

// TestEndsDuringAdmission: that a pod is over is told at once, also while another pod is being taken in and cannot be asked what it
// leaves free for those that wait for a resize.
func TestEndsDuringAdmission(t *testing.T) {
	n := newNode()
	admitting, admitted := make(chan bool), make(chan bool)
	n.pool.cfg.Admit = func(p *v1.Pod, _ bool, _ []*v1.Pod) *pod.End {
		if p.UID == "late" {
			close(admitting)
			<-admitted
		}
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- n.pool.Run(ctx) }()
	p := testPod("a")
	p.Spec.RestartPolicy = v1.RestartPolicyNever
	n.pool.Update(p, false)
	reach(t, n, v1.PodRunning)
	late := testPod("a")
	late.UID, late.Name = "late", "late"
	Settled(n.pool) // all pods of this runtime have the same containers
	go n.pool.Update(late, false)
	<-admitting
	n.exit("a", 0)
	reach(t, n, v1.PodSucceeded)
	close(admitted)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// reach waits until the pod u was told to be in the phase.
func reach(t *testing.T, n *node, phase v1.PodPhase) {
	t.Helper()
	for began := time.Now(); n.phase("u") != phase; time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Errorf("the pod is %s, not %s", n.phase("u"), phase)
			return
		}
	}
}
