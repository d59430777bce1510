// Package worker carries out what package pod decides. Each pod has one goroutine, its worker, that
//
//	observes the pod through CRI, asks pod.Plan what to do and report.Status what to tell,
//	begins the steps it is told to begin, and sleeps until something wakes it.
//
// What wakes it carries no information (a channel of capacity one): a change of the pod in the API, an event of the
// runtime, a probe's verdict, the end of a step, a changed ConfigMap. Each pass looks at everything afresh, so a wake-up
// can be lost in another one but never matters less for it. Only the runtime is not asked again as long as nothing can have
// changed there.
//
// A pass never blocks on a step. Steps that take time (pull and start, hooks, stop calls) run beside the worker, each
// under a name, at most one of a name at a time; when one ends it leaves its result and wakes the worker. So a deletion is
// seen while an image is being pulled, and a shorter grace period while a container is being stopped.
//
// Nothing is kept on disk but what the node has granted (package record). After a restart the runtime's lists, the labels of the containers and the status in the API
// are enough to go on: running containers are not touched, and their probes begin with the verdicts last reported.
package worker

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/report"
	"github.com/skiff-node/skiff/kubelet/pod/resize"
	"github.com/skiff-node/skiff/kubelet/probe"
	"github.com/skiff-node/skiff/kubelet/runtime"
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/worker/record"
)

// Runtime is what a worker needs of CRI; *runtime.Runtime is it.
type Runtime interface {
	Name() string
	Observe(ctx context.Context, uid types.UID) ([]pod.Sandbox, []pod.Container, error)
	CreateSandbox(ctx context.Context, p *v1.Pod, attempt uint32, cgroupParent string) (string, error)
	SandboxIPs(ctx context.Context, id string) ([]string, error)
	StopSandbox(ctx context.Context, id string) error
	RemoveSandbox(ctx context.Context, id string) error
	StartContainer(ctx context.Context, req *runtime.Request) error
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error
	RunHook(ctx context.Context, p *v1.Pod, id, container string, h *v1.LifecycleHandler) error
	RemoveLogs(p *v1.Pod) error
	// UpdateContainer gives a running container the resources that the spec has for it.
	UpdateContainer(ctx context.Context, p *v1.Pod, name, id string) error
	// UpdateSandbox tells the runtime of the resources that the pod shall have instead of those it had.
	UpdateSandbox(ctx context.Context, had, shall *v1.Pod, id string) error
	// MemoryUsage of a running container, PodMemoryUsage of all of the pod, in bytes.
	MemoryUsage(ctx context.Context, id string) (int64, error)
	PodMemoryUsage(ctx context.Context, sandbox string) (int64, error)
}

// Volumes makes a pod's volumes. Setup may be called again at any time and then only does what is missing.
type Volumes interface {
	Setup(ctx context.Context, p *v1.Pod) (map[string]volume.Place, error)
	// Teardown takes down all that lies in the pod's directory, and the directory.
	Teardown(ctx context.Context, uid types.UID) error
}

// Cgroups makes a pod's cgroup.
type Cgroups interface {
	EnsurePod(p *v1.Pod) (parent string, err error)
	// Adopt takes in a pod that a kubelet before this one has started.
	Adopt(p *v1.Pod)
	RemovePod(ctx context.Context, uid types.UID) error
	// ResizePod gives the pod's cgroup the limits of p. While change runs they bound both what was and what will be.
	ResizePod(p *v1.Pod, change func() error) error
}

// Probes runs the probes of containers.
type Probes interface {
	// Sync makes the probes of the pod be those of the targets.
	Sync(p *v1.Pod, targets []probe.Target)
	// Verdicts by container ID.
	Verdicts(uid types.UID) map[string]pod.Probes
}

// Statuses writes pod statuses to the API. All its methods return at once, except Flush.
type Statuses interface {
	Set(p *v1.Pod, st v1.PodStatus)
	// Flush waits until the last status set has been written, or the pod is gone.
	Flush(ctx context.Context, uid types.UID) error
	Forget(uid types.UID)
}

// Records keep what pods were granted and have got, beyond this process.
type Records interface {
	// Load is not ok when nothing was kept.
	Load(uid types.UID) (s record.Standing, ok bool, err error)
	Save(uid types.UID, s record.Standing) error
}

// Events records events of pods.
type Events interface {
	Normal(p *v1.Pod, container, reason, format string, args ...any)
	Warning(p *v1.Pod, container, reason, format string, args ...any)
}

// Claims are the devices that pods have by resource claims.
type Claims interface {
	// Prepare makes the devices of a pod ready. It may be repeated, and then only does what is missing.
	Prepare(ctx context.Context, p *v1.Pod) error
	// Holds tells whether devices are or may be ready for a pod; Release takes them back.
	Holds(uid types.UID) bool
	Release(ctx context.Context, uid types.UID) error
	// Report adds what is known of the devices to a status.
	Report(p *v1.Pod, st *v1.PodStatus)
}

// Config of a Pool. All fields but those marked optional are required.
type Config struct {
	Runtime  Runtime
	Volumes  Volumes
	Cgroups  Cgroups
	Probes   Probes
	Statuses Statuses
	Events   Events
	// Claims is optional: without it, pods that have claims are started without their devices.
	Claims Claims
	// Delete removes a pod from the API for good, with grace period zero and its UID as precondition. One that is gone
	// counts as removed. Nil without an API server.
	Delete func(ctx context.Context, p *v1.Pod) error
	// Admit refuses a new pod by returning the end it meets. active are the pods that hold resources.
	Admit func(p *v1.Pod, static bool, active []*v1.Pod) *pod.End
	// Resize refuses a change of a running pod's resources, whose spec has what is desired; nil grants it. others are the
	// pods that hold resources, with what they were granted. When it is nil, every change is granted.
	Resize func(p *v1.Pod, granted resize.Allocation, others []*v1.Pod) *resize.Refusal
	// Records keep what pods were granted and have got. Nil keeps nothing: then the API's status tells.
	Records Records
	// Instruments are optional.
	Instruments
	// Over is told that nothing of a pod runs any more and nothing will, before the API is told so: others may get what the pod had
	// once that is known. Optional.
	Over func(uid types.UID)
	// Gone is told that a static pod has ended and nothing of it is left. Optional.
	Gone func()
	// Health tells how the devices are that the pod's containers have, by container name. Optional.
	Health func(p *v1.Pod) map[string][]v1.ResourceStatus
	// HostIPs of the node.
	HostIPs func() []string
	// Register and Unregister tell of pods whose ConfigMaps and Secrets shall be watched. Optional.
	Register   func(p *v1.Pod)
	Unregister func(uid types.UID)
	// MaxBackoff caps the back-off between restarts; zero means upstream's 5 minutes.
	MaxBackoff time.Duration
	Log        *slog.Logger
}

// Instruments tell what goes on.
type Instruments struct {
	// Metrics and Resizes count what becomes of pods and of their resizes.
	Metrics *metrics.Pods
	Resizes *metrics.Resizes
	Trace   Trace
}

// worker is one pod's. The fields above mu are its goroutine's own.
type worker struct {
	cfg  *Config
	log  *slog.Logger
	wake chan struct{}

	last     *v1.PodStatus
	view     view
	seen     time.Time
	ending   ending
	adopted  map[string]pod.Probes
	ended    ended
	backedUp map[string]string // the back-off last told of by event, by container name

	mu      sync.Mutex
	pod     *v1.Pod
	static  bool
	removed bool // no source has the pod any more
	end     *pod.End
	status  v1.PodStatus
	kills   map[string]pod.Kill
	trouble trouble
	resize  resizing
	steps   steps
}

// view is what was last seen of the pod in the runtime. It holds until the runtime tells of a change, a step of the worker's own
// has ended, or a time has come: a pass that something else has called for need not ask again.
type view struct {
	made       bool        // a pass has been made
	stale      atomic.Bool // what was seen may have changed
	sandboxes  []pod.Sandbox
	containers []pod.Container
}

// trouble is what is remembered of containers that do not start, by name.
type trouble struct {
	crashes map[string]pod.Crash
	faults  map[string]pod.Fault
	delays  map[string]time.Duration // of the last fault
	hooking string                   // the container that is being started and has a postStart hook
}

func newWorker(cfg *Config, p *v1.Pod, static bool) *worker {
	w := &worker{
		cfg: cfg, pod: p, static: static, seen: time.Now(), wake: make(chan struct{}, 1),
		log:      cfg.Log.With("pod", p.Namespace+"/"+p.Name, "uid", p.UID),
		kills:    map[string]pod.Kill{},
		trouble:  trouble{crashes: map[string]pod.Crash{}, faults: map[string]pod.Fault{}, delays: map[string]time.Duration{}},
		backedUp: map[string]string{},
	}
	w.status = p.Status
	if w.ended.is = make(chan struct{}); pod.Terminal(p.Status.Phase) {
		w.ended.tell()
	}
	resizer{w}.recall()
	w.steps.running = map[string]*step{}
	w.adopted = adopted(p)
	w.changed()
	return w
}

// changed wakes the worker to ask the runtime anew.
func (w *worker) changed() {
	w.view.stale.Store(true)
	w.poke()
}

// poke wakes the worker.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// adopted are the verdicts that the API's status implies for the containers it names.
func adopted(p *v1.Pod) map[string]pod.Probes {
	m := map[string]pod.Probes{}
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			var v pod.Probes
			if c.Started != nil && *c.Started {
				v.Startup = pod.Success
			}
			if c.Ready {
				v.Readiness = pod.Success
			}
			m[trimScheme(c.ContainerID)] = v
		}
	}
	return m
}

// run is the worker's goroutine. It returns when the pod is gone for good, or ctx ends: then the containers are left as
// they are for the next kubelet.
func (w *worker) run(ctx context.Context) {
	defer w.steps.wait()
	for {
		again, gone := w.pass(ctx)
		if gone {
			return
		}
		var timer <-chan time.Time
		if !again.IsZero() {
			t := time.NewTimer(max(time.Until(again), time.Millisecond))
			defer t.Stop()
			timer = t.C
		}
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer:
			w.view.stale.Store(true)
		}
	}
}

// afterError is the pause before a pass is made again that could not be made.
const afterError = time.Second

// pass looks at everything once and begins what is to be done. It returns when to look again at the latest, and whether
// the pod is gone for good.
func (w *worker) pass(ctx context.Context) (again time.Time, gone bool) {
	began, operation := time.Now(), "sync"
	d, o := w.snapshot()
	if !w.view.made {
		w.cfg.Metrics.Began(d.Pod, began.Sub(w.seen))
	}
	if err := w.observe(ctx, &o, d.Pod.UID); err != nil {
		if ctx.Err() == nil {
			w.log.Warn("cannot observe pod", "err", err)
		}
		return time.Now().Add(afterError), false
	}
	if !w.view.made && alive(&o) {
		w.cfg.Cgroups.Adopt(d.Pod)
	}
	resizer{w}.see(&d, &o)
	resizer{w}.keep(&o)
	w.probe(d.Pod, &o)
	acts, st := w.decide(&d, &o)
	if w.cfg.Claims != nil {
		w.cfg.Claims.Report(d.Pod, &st)
	}
	w.publish(d, st, &acts)
	ctx, span := w.cfg.Trace.pass(ctx, w, &d, &acts, began)
	defer span.done()
	w.act(ctx, &d, &acts)
	switch {
	case !w.view.made:
		operation = "create"
	case acts.Done:
		operation = "terminated"
	}
	w.cfg.Metrics.Pass(operation, time.Since(began))
	w.view.made = true
	if !acts.Done {
		return acts.Again, false
	}
	return finisher{w}.finish(ctx, &d, &o)
}

// alive tells whether anything of the pod runs.
func alive(o *pod.Observed) bool {
	return slices.ContainsFunc(o.Sandboxes, func(s pod.Sandbox) bool { return s.Ready }) ||
		slices.ContainsFunc(o.Containers, func(c pod.Container) bool { return c.State == pod.Running })
}

// observe takes in what the runtime has of the pod, as it was last seen if nothing has happened since.
func (w *worker) observe(ctx context.Context, o *pod.Observed, uid types.UID) error {
	if w.view.stale.Swap(false) {
		sandboxes, containers, err := w.cfg.Runtime.Observe(ctx, uid)
		if err != nil {
			w.view.stale.Store(true)
			return err
		}
		w.view.sandboxes, w.view.containers = sandboxes, containers
	}
	o.Sandboxes, o.Containers = slices.Clone(w.view.sandboxes), slices.Clone(w.view.containers)
	return nil
}

// snapshot copies what the decision depends on. It is taken before the runtime is observed: a start that ends in between
// counts as under way, so that what it has just made is not made again.
func (w *worker) snapshot() (pod.Desired, pod.Observed) {
	w.mu.Lock()
	defer w.mu.Unlock()
	d := pod.Desired{Pod: resize.Apply(w.pod, w.resize.granted), Static: w.static, End: w.end}
	o := pod.Observed{Kills: map[string]pod.Kill{}, Crashes: map[string]pod.Crash{}, Faults: map[string]pod.Fault{},
		Busy: w.steps.busy(stepStart), MaxBackoff: w.cfg.MaxBackoff}
	w.resize.atPass = w.resize.progress
	w.steps.before = map[string]bool{}
	for name := range w.steps.running {
		w.steps.before[name] = true
	}
	for k, v := range w.kills {
		o.Kills[k] = v
	}
	for k, v := range w.trouble.crashes {
		o.Crashes[k] = v
	}
	for k, v := range w.trouble.faults {
		o.Faults[k] = v
	}
	if w.trouble.hooking != "" {
		o.Hooking = map[string]bool{w.trouble.hooking: true}
	}
	return d, o
}

// decide makes plan and status, and again if that shows that the pod has to end.
func (w *worker) decide(d *pod.Desired, o *pod.Observed) (pod.Actions, v1.PodStatus) {
	now := time.Now()
	facts := report.Facts{Now: now, HostIPs: w.cfg.HostIPs(), Runtime: w.cfg.Runtime.Name(), Last: w.last}
	if w.cfg.Health != nil {
		facts.Health = w.cfg.Health(d.Pod)
	}
	facts.Pending, facts.Progress = resizer{w}.standing()
	facts.Held = w.holds(d.Pod.UID)
	acts := pod.Plan(*d, *o, now)
	st := report.Status(*d, *o, acts, facts)
	end := pod.Ends(*d, &st, acts.Finished, now)
	if end == nil || (d.End != nil && *end == *d.End) {
		return acts, st
	}
	w.mu.Lock()
	w.end = end
	w.mu.Unlock()
	if d.End == nil && end.Reason == pod.ReasonDeadline {
		w.cfg.Events.Normal(d.Pod, "", end.Reason, "%s", end.Message)
	}
	d.End = end
	acts = pod.Plan(*d, *o, now)
	return acts, report.Status(*d, *o, acts, facts)
}

// probe runs the probes of what runs, and takes in their verdicts.
func (w *worker) probe(p *v1.Pod, o *pod.Observed) {
	var targets []probe.Target
	ip := ""
	if len(o.Sandboxes) > 0 && len(o.Sandboxes[0].IPs) > 0 {
		ip = o.Sandboxes[0].IPs[0]
	}
	if hosts := w.cfg.HostIPs(); p.Spec.HostNetwork && len(hosts) > 0 {
		ip = hosts[0]
	}
	for _, c := range o.Containers {
		spec := pod.Find(p, c.Name)
		if c.State != pod.Running || o.Unborn(&c) || spec == nil || (spec.LivenessProbe == nil && spec.ReadinessProbe == nil && spec.StartupProbe == nil) {
			continue
		}
		targets = append(targets, probe.Target{ID: c.ID, Spec: spec, Started: c.StartedAt, PodIP: ip, Adopted: w.adopted[c.ID]})
	}
	w.cfg.Probes.Sync(p, targets)
	o.Probes = w.cfg.Probes.Verdicts(p.UID)
}

// publish tells the status, and by event what holds containers up.
func (w *worker) publish(d pod.Desired, st v1.PodStatus, acts *pod.Actions) {
	w.last = &st
	w.mu.Lock()
	over := pod.Terminal(st.Phase) && !pod.Terminal(w.status.Phase)
	begins := st.Phase == v1.PodRunning && w.status.Phase != v1.PodRunning
	w.cfg.Metrics.Changed(&w.status, &st)
	w.status = st
	removed := w.removed
	w.mu.Unlock()
	if begins {
		w.cfg.Metrics.Running(d.Pod, &st, time.Since(w.seen))
	}
	if over {
		if w.cfg.Over != nil {
			w.cfg.Over(d.Pod.UID)
		}
		w.ended.tell()
		if w.ended.freed != nil {
			w.ended.freed()
		}
	}
	if (!removed || w.static) && !w.ending.deleted { // a static pod's mirror stays to the end
		w.cfg.Statuses.Set(d.Pod, st)
	}
	for name, f := range acts.Waiting {
		if w.backedUp[name] == f.Reason+f.Message {
			continue
		}
		w.backedUp[name] = f.Reason + f.Message
		switch f.Reason {
		case "CrashLoopBackOff":
			w.cfg.Events.Warning(d.Pod, name, "BackOff", "Back-off restarting failed container %s in pod %s", name, pod.Describe(d.Pod))
		case "ImagePullBackOff":
			w.cfg.Events.Normal(d.Pod, name, "BackOff", "%s", f.Message)
			w.cfg.Events.Warning(d.Pod, name, "Failed", "Error: ImagePullBackOff")
		}
	}
}
