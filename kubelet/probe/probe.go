// Package probe runs the startup, readiness and liveness probes of containers.
//
// Each probe of each running container has a goroutine of its own, which owns its counters and leaves a verdict:
//
//	result of one check ──thresholds──► verdict ──► the pod's worker is woken
//
// Until a threshold is reached the verdict stays what it was; at first it is Pending, or for a container that ran before
// this kubelet did, what was last reported of it. While a startup probe has not succeeded the other two wait. A startup
// probe ends with its first verdict, a liveness probe with its first failure: what follows is a new container.
package probe

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Kind of a probe, as events name it.
type Kind string

const (
	Startup   Kind = "Startup"
	Readiness Kind = "Readiness"
	Liveness  Kind = "Liveness"
)

// Target is a running container whose probes shall run.
type Target struct {
	ID      string
	Spec    *v1.Container
	Started time.Time
	PodIP   string
	Adopted pod.Probes
}

// Events is where failures are reported.
type Events interface {
	Warning(p *v1.Pod, container, reason, format string, args ...any)
}

// Config of a Manager. All fields are required.
type Config struct {
	Checker Checker
	Events  Events
	// Checked is told of each regular check: its result is successful, failed or unknown. Optional; it must not block.
	Checked func(p *v1.Pod, container string, kind Kind, result string, took time.Duration)
	// Changed is told of pods with a new verdict. It must not block.
	Changed func(uid types.UID)
	Log     *slog.Logger
}

// Checker makes one check. An error means that it could not be made; it says nothing about the container.
type Checker interface {
	Check(ctx context.Context, spec *v1.Probe, t *Target) (ok bool, output string, err error)
}

// Manager holds the probes of all pods. It is safe for concurrent use.
type Manager struct {
	cfg Config

	mu    sync.Mutex
	pods  map[types.UID]map[string]*container
	group sync.WaitGroup
}

// container is what is known of one container: its verdicts, and how to end its probes.
type container struct {
	verdicts pod.Probes
	started  chan struct{} // closed once the startup probe has succeeded, or when there is none
	cancel   context.CancelFunc
	// cancelKill ends the probes that may kill the container, when the pod is being deleted.
	cancelKill context.CancelFunc
}

// New makes a manager without probes.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, pods: map[types.UID]map[string]*container{}}
}

// Sync makes the probes of the pod be those of the targets: of new ones they begin, of missing ones they end.
func (m *Manager) Sync(p *v1.Pod, targets []Target) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := m.pods[p.UID]
	want := map[string]bool{}
	for i := range targets {
		want[targets[i].ID] = true
	}
	for id, c := range have {
		if !want[id] {
			c.cancel()
			delete(have, id)
		} else if p.DeletionTimestamp != nil {
			c.cancelKill()
		}
	}
	if len(targets) == 0 {
		delete(m.pods, p.UID)
		return
	}
	if have == nil {
		have = map[string]*container{}
		m.pods[p.UID] = have
	}
	for i := range targets {
		if have[targets[i].ID] == nil {
			have[targets[i].ID] = m.begin(p, targets[i])
		}
	}
}

// begin starts the probes of one container.
func (m *Manager) begin(p *v1.Pod, t Target) *container {
	ctx, cancel := context.WithCancel(context.Background())
	killCtx, cancelKill := context.WithCancel(ctx)
	c := &container{verdicts: t.Adopted, started: make(chan struct{}), cancel: cancel, cancelKill: cancelKill}
	if t.Spec.StartupProbe == nil || t.Adopted.Startup == pod.Success {
		close(c.started)
	} else {
		m.launch(killCtx, &prober{manager: m, pod: p, target: t, container: c, kind: Startup, spec: t.Spec.StartupProbe})
	}
	if t.Spec.ReadinessProbe != nil {
		m.launch(ctx, &prober{manager: m, pod: p, target: t, container: c, kind: Readiness, spec: t.Spec.ReadinessProbe})
	}
	if t.Spec.LivenessProbe != nil {
		m.launch(killCtx, &prober{manager: m, pod: p, target: t, container: c, kind: Liveness, spec: t.Spec.LivenessProbe})
	}
	if p.DeletionTimestamp != nil {
		cancelKill()
	}
	return c
}

func (m *Manager) launch(ctx context.Context, pr *prober) {
	m.group.Add(1)
	go func() {
		defer m.group.Done()
		pr.run(ctx)
	}()
}

// Verdicts of the pod's containers, by ID.
func (m *Manager) Verdicts(uid types.UID) map[string]pod.Probes {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]pod.Probes{}
	for id, c := range m.pods[uid] {
		out[id] = c.verdicts
	}
	return out
}

// Close ends all probes and waits for them.
func (m *Manager) Close() {
	m.mu.Lock()
	for _, pod := range m.pods {
		for _, c := range pod {
			c.cancel()
		}
	}
	m.mu.Unlock()
	m.group.Wait()
}

// prober runs one probe.
type prober struct {
	manager   *Manager
	pod       *v1.Pod
	target    Target
	container *container
	kind      Kind
	spec      *v1.Probe
	counter   counter
	passed    bool // one check has succeeded
}

func (pr *prober) run(ctx context.Context) {
	if pr.kind != Startup {
		select {
		case <-pr.container.started:
		case <-ctx.Done():
			return
		}
	}
	period := max(time.Duration(pr.spec.PeriodSeconds)*time.Second, time.Second)
	first := time.Until(pr.target.Started.Add(time.Duration(pr.spec.InitialDelaySeconds) * time.Second))
	if pr.target.Adopted != (pod.Probes{}) { // after a restart of the kubelet, not all at the same moment
		first = max(first, rand.N(period))
	}
	timer := time.NewTimer(max(first, 0))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(period)
		if next := time.Now().Add(period); pr.once(ctx) || pr.hasten(ctx, next) {
			return
		}
	}
}

// firstHaste is the pause before the first check between two regular ones; each further one is twice as long.
const firstHaste = 20 * time.Millisecond

// hasten checks a container that is not up yet more often than its period, until the next regular check. A program needs
// some milliseconds before it listens: without this, the first check comes too early and the pod is ready a whole period too
// late. Only success counts here; failures are the regular checks' to count and to report. Checks by exec are too dear.
func (pr *prober) hasten(ctx context.Context, until time.Time) (ended bool) {
	if pr.kind == Liveness || pr.spec.Exec != nil || pr.passed {
		return false
	}
	for wait := firstHaste; time.Now().Add(wait).Before(until); wait *= 2 {
		select {
		case <-ctx.Done():
			return true
		case <-time.After(wait):
		}
		if ok, _, err := pr.manager.cfg.Checker.Check(ctx, pr.spec, &pr.target); ok && err == nil {
			return pr.take(true)
		}
	}
	return false
}

// report tells who counts checks.
func (pr *prober) report(ok bool, err error, took time.Duration) {
	if pr.manager.cfg.Checked == nil {
		return
	}
	result := "failed"
	switch {
	case err != nil:
		result = "unknown"
	case ok:
		result = "successful"
	}
	pr.manager.cfg.Checked(pr.pod, pr.target.Spec.Name, pr.kind, result, took)
}

// attempts at a check that could not be made.
const attempts = 3

// once makes one check and tells whether the probe has ended.
func (pr *prober) once(ctx context.Context) (ended bool) {
	var ok bool
	var output string
	var err error
	began := time.Now()
	for range attempts {
		if ok, output, err = pr.manager.cfg.Checker.Check(ctx, pr.spec, &pr.target); err == nil || ctx.Err() != nil {
			break
		}
	}
	pr.report(ok, err, time.Since(began))
	if ctx.Err() != nil {
		return true
	}
	name := pr.target.Spec.Name
	if err != nil {
		pr.manager.cfg.Events.Warning(pr.pod, name, "Unhealthy", "%s probe errored and resulted in unknown state: %v", pr.kind, err)
		return false
	}
	if !ok {
		pr.manager.cfg.Events.Warning(pr.pod, name, "Unhealthy", "%s probe failed: %s", pr.kind, output)
	}
	return pr.take(ok)
}

// take counts a result, publishes the verdict when its threshold is reached, and tells whether the probe has ended.
func (pr *prober) take(ok bool) (ended bool) {
	pr.passed = pr.passed || ok
	verdict, reached := pr.counter.count(ok, pr.spec)
	if !reached {
		return false
	}
	pr.leave(verdict)
	return pr.kind == Startup || (pr.kind == Liveness && verdict == pod.Failure)
}

// leave publishes a verdict.
func (pr *prober) leave(v pod.Verdict) {
	m := pr.manager
	m.mu.Lock()
	field := map[Kind]*pod.Verdict{Startup: &pr.container.verdicts.Startup, Readiness: &pr.container.verdicts.Readiness,
		Liveness: &pr.container.verdicts.Liveness}[pr.kind]
	changed := *field != v
	*field = v
	m.mu.Unlock()
	if !changed {
		return
	}
	m.cfg.Log.Info("probe verdict", "pod", pr.pod.Namespace+"/"+pr.pod.Name, "container", pr.target.Spec.Name, "probe", pr.kind,
		"success", v == pod.Success)
	if pr.kind == Startup && v == pod.Success {
		close(pr.container.started)
	}
	m.cfg.Changed(pr.pod.UID)
}

// counter counts equal results in a row.
type counter struct {
	last bool
	run  int32
}

// count takes in a result and tells whether its threshold is reached.
func (c *counter) count(ok bool, spec *v1.Probe) (v pod.Verdict, reached bool) {
	if c.run > 0 && c.last == ok {
		c.run++
	} else {
		c.last, c.run = ok, 1
	}
	if ok {
		return pod.Success, c.run >= max(spec.SuccessThreshold, 1)
	}
	return pod.Failure, c.run >= max(spec.FailureThreshold, 1)
}
