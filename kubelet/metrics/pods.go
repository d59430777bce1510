package metrics

import (
	"slices"
	"strconv"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pods counts what becomes of pods; worker.Config takes it.
type Pods struct {
	work, workerStart      *Histogram
	start, sli, total      *Histogram
	first                  *Gauge
	perPod                 *Histogram
	terminated             *Counter
	restarted, orphans     *Counter
	rejected               *Counter
	evictions, preemptions *Counter
	statusSync             *Histogram
	cgroups                *Histogram
	mu                     sync.Mutex
	pulls                  map[types.UID][]span
	networked              bool // a pod with a network of its own has started
}

type span struct{ from, to time.Time }

func newPods(s *Set) *Pods {
	p := &Pods{
		work: s.Histogram("kubelet_pod_worker_duration_seconds",
			"[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", defaults),
		workerStart: s.Histogram("kubelet_pod_worker_start_duration_seconds", "[ALPHA] Duration in seconds from kubelet seeing a pod to starting a worker.", defaults),
		start: s.Histogram("kubelet_pod_start_duration_seconds",
			"[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", starts),
		sli: s.Histogram("kubelet_pod_start_sli_duration_seconds",
			"[ALPHA] Duration in seconds to start a pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", starts),
		total: s.Histogram("kubelet_pod_start_total_duration_seconds",
			"[ALPHA] Duration in seconds to start a pod since creation, including time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch", starts),
		first: s.Gauge("kubelet_first_network_pod_start_sli_duration_seconds",
			"[ALPHA] Duration in seconds to start the first network pod, excluding time to pull images and run init containers, measured from pod creation timestamp to when all its containers are reported as started and observed via watch"),
		perPod:     s.Histogram("kubelet_containers_per_pod_count", "[ALPHA] The number of containers per pod.", Buckets(1, 2, 5)),
		terminated: s.Counter("kubelet_terminated_containers_total", "[ALPHA] Cumulative number of container terminations."),
		restarted: s.Counter("kubelet_restarted_pods_total",
			"[ALPHA] Number of pods that have been restarted because they were deleted and recreated with the same UID while the kubelet was watching them (common for static pods, extremely uncommon for API pods)"),
		orphans: s.Total("kubelet_orphaned_runtime_pods_total",
			"[ALPHA] Number of pods that have been detected in the container runtime without being already known to the pod worker. This typically indicates the kubelet was restarted while a pod was force deleted in the API or in the local configuration, which is unusual."),
		rejected: s.Counter("kubelet_admission_rejections_total", "[ALPHA] Cumulative number pod admission rejections by the Kubelet."),
		statusSync: s.Histogram("kubelet_pod_status_sync_duration_seconds",
			"[ALPHA] Duration in seconds to sync a pod status update. Measures time from detection of a change to pod status until the API is successfully updated for that pod, even if multiple intevening changes to pod status occur.",
			[]float64{.01, .05, .1, .5, 1, 5, 10, 20, 30, 45, 60}),
		cgroups: s.Histogram("kubelet_cgroup_manager_duration_seconds",
			"[ALPHA] Duration in seconds for cgroup manager operations. Broken down by method.", defaults),
		pulls: map[types.UID][]span{},
	}
	p.evictions = s.Counter("kubelet_evictions", "[ALPHA] Cumulative number of pod evictions by eviction signal")
	p.preemptions = s.Counter("kubelet_preemptions", "[ALPHA] Cumulative number of pod preemptions by preemption resource")
	for _, static := range []string{"", "true"} {
		p.restarted.Add(0, "static", static)
	}
	return p
}

// Pass takes in how long one look at a pod took; operation is create, sync or terminated.
func (m *Pods) Pass(operation string, took time.Duration) {
	m.work.Observe(took, "operation_type", operation)
}

// Began takes in a pod's first look, so long after it was seen.
func (m *Pods) Began(p *v1.Pod, after time.Duration) {
	m.workerStart.Observe(after)
	m.perPod.value(float64(len(p.Spec.Containers)))
}

// Running takes in that the pod has begun to run with this status, so long after it was seen.
func (m *Pods) Running(p *v1.Pod, st *v1.PodStatus, after time.Duration) {
	m.start.Observe(after)
	m.mu.Lock()
	defer m.mu.Unlock()
	pulls := m.pulls[p.UID]
	delete(m.pulls, p.UID)
	if p.CreationTimestamp.IsZero() {
		return // it comes from a file
	}
	total := time.Since(p.CreationTimestamp.Time)
	m.total.Observe(total)
	if stateful(p) {
		return
	}
	own := total - union(pulls) - initialising(st)
	m.sli.Observe(own)
	if !p.Spec.HostNetwork && !m.networked {
		m.networked = true
		m.first.Set(own.Seconds())
	}
}

// pulled notes that an image was pulled for the pod, which may be starting.
func (m *Pods) pulled(uid types.UID, from, to time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pulls[uid] = append(m.pulls[uid], span{from, to})
}

func (m *Pods) forget(uid string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pulls, types.UID(uid))
}

// union is how long at least one of the spans lasted.
func union(spans []span) time.Duration {
	slices.SortFunc(spans, func(a, b span) int { return a.from.Compare(b.from) })
	var sum time.Duration
	var end time.Time
	for _, s := range spans {
		if s.from.Before(end) {
			s.from = end
		}
		if s.to.After(s.from) {
			sum += s.to.Sub(s.from)
			end = s.to
		}
	}
	return sum
}

// initialising is how long the init containers ran that have ended.
func initialising(st *v1.PodStatus) time.Duration {
	var sum time.Duration
	for i := range st.InitContainerStatuses {
		if t := st.InitContainerStatuses[i].State.Terminated; t != nil && t.FinishedAt.After(t.StartedAt.Time) {
			sum += t.FinishedAt.Sub(t.StartedAt.Time)
		}
	}
	return sum
}

// stateful pods have volumes of other kinds than those that the kubelet makes; how long they take is not the node's merit
// (sig-scalability, pod startup latency SLI).
func stateful(p *v1.Pod) bool {
	return slices.ContainsFunc(p.Spec.Volumes, func(v v1.Volume) bool {
		return v.Secret == nil && v.ConfigMap == nil && v.DownwardAPI == nil && v.EmptyDir == nil && v.Projected == nil
	})
}

// Changed counts the containers that ran in the old status and have ended in the new one.
func (m *Pods) Changed(old, now *v1.PodStatus) {
	for _, list := range []struct {
		kind     string
		old, now []v1.ContainerStatus
	}{
		{"container", old.ContainerStatuses, now.ContainerStatuses},
		{"init_container", old.InitContainerStatuses, now.InitContainerStatuses},
		{"ephemeral_container", old.EphemeralContainerStatuses, now.EphemeralContainerStatuses},
	} {
		for i := range list.now {
			st := &list.now[i]
			was := slices.IndexFunc(list.old, func(o v1.ContainerStatus) bool { return o.Name == st.Name })
			if was < 0 || list.old[was].State.Running == nil {
				continue
			}
			t := st.State.Terminated
			if t == nil && st.State.Running == nil { // it waits to be started again
				t = st.LastTerminationState.Terminated
			}
			if t != nil {
				m.terminated.Inc("container_type", list.kind, "exit_code", strconv.Itoa(int(t.ExitCode)), "reason", t.Reason)
			}
		}
	}
}

// Restarted counts a pod that began again with the same UID.
func (m *Pods) Restarted(static bool) { m.restarted.Inc("static", staticLabel(static)) }

// Orphaned counts a pod that only the runtime knew.
func (m *Pods) Orphaned() { m.orphans.Inc() }

// Evicted counts an evicted pod.
func (m *Pods) Evicted(signal string) { m.evictions.Inc("eviction_signal", signal) }

// Preempted counts a pod that had to make room for a critical one, by the resource that was short.
func (m *Pods) Preempted(signal string) { m.preemptions.Inc("preemption_signal", signal) }

// Rejected counts a pod that the node did not take in.
func (m *Pods) Rejected(reason string) { m.rejected.Inc("reason", reason) }

// StatusWritten takes in how long a status took from the change to the API.
func (m *Pods) StatusWritten(took time.Duration) { m.statusSync.Observe(took) }

// Cgroup takes in how long making (create), changing (update) or removing (destroy) a pod's cgroup took.
func (m *Pods) Cgroup(operation string, took time.Duration) {
	m.cgroups.Observe(took, "operation_type", operation)
}

// staticLabel is how upstream labels static pods and others.
func staticLabel(static bool) string {
	if static {
		return "true"
	}
	return ""
}

// Count is how many pods there are of a sort.
type Count struct {
	Static bool
	// Lifecycle is sync, terminating or terminated; Config is desired, or orphan when no source has the pod any more.
	Lifecycle, Config string
	// Active pods hold resources of the node.
	Active bool
	// Ephemeral containers in it.
	Ephemeral int
}

// Census adds the gauges of how many pods there are, read from list.
func (k *Kubelet) Census(list func() []Count) {
	by := func(emit Emit, in func(Count) bool) {
		sums := map[string]float64{"": 0, "true": 0}
		for _, c := range list() {
			if in(c) {
				sums[staticLabel(c.Static)]++
			}
		}
		for static, n := range sums {
			emit(n, "static", static)
		}
	}
	k.Main.Read("kubelet_active_pods", "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static is true if the pod is not from the apiserver.",
		func(emit Emit) { by(emit, func(c Count) bool { return c.Active }) })
	k.Main.Read("kubelet_desired_pods", "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.",
		func(emit Emit) { by(emit, func(c Count) bool { return c.Config == "desired" }) })
	k.Main.Read("kubelet_mirror_pods", "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)", func(emit Emit) {
		n := 0.0
		for _, c := range list() {
			if c.Static && c.Config == "desired" {
				n++
			}
		}
		emit(n)
	})
	k.Main.Read("kubelet_working_pods", "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or force deleted in the API and consumes resources that are not otherwise visible.", func(emit Emit) {
		sums := map[[3]string]float64{}
		for _, config := range []string{"desired", "orphan"} {
			for _, life := range []string{"sync", "terminating", "terminated"} {
				sums[[3]string{config, life, ""}], sums[[3]string{config, life, "true"}] = 0, 0
			}
		}
		for _, c := range list() {
			sums[[3]string{c.Config, c.Lifecycle, staticLabel(c.Static)}]++
		}
		for key, n := range sums {
			emit(n, "config", key[0], "lifecycle", key[1], "static", key[2])
		}
	})
	k.Main.Read("kubelet_managed_ephemeral_containers", "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.", func(emit Emit) {
		n := 0
		for _, c := range list() {
			n += c.Ephemeral
		}
		emit(float64(n))
	})
}
