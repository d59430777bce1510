package metrics

import (
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Resizes counts changes of the resources of running pods; worker.Config takes it.
type Resizes struct {
	requested, infeasible, accepted *Counter
	took, deferred                  *Histogram
}

func newResizes(s *Set) *Resizes {
	return &Resizes{
		requested: s.Counter("kubelet_container_requested_resizes_total",
			"[ALPHA] Number of requested resizes, counted at the container level. Different resources on the same container are counted separately. The 'requirement' label refers to 'memory' or 'limits'; the 'operation' label can be one of 'add', 'remove', 'increase' or 'decrease'."),
		infeasible: s.Counter("kubelet_pod_infeasible_resizes_total", "[ALPHA] Number of infeasible resizes for pods."),
		accepted: s.Counter("kubelet_pod_deferred_accepted_resizes_total",
			"[ALPHA] Cumulative number of resizes that were accepted after being deferred."),
		took: s.Histogram("kubelet_pod_resize_duration_milliseconds", "[ALPHA] Duration in milliseconds to actuate a pod resize",
			[]float64{10, 50, 100, 500, 1000, 2000, 5000, 10000, 20000, 30000, 60000, 120000, 300000, 600000}),
		deferred: s.Histogram("kubelet_pod_deferred_resize_duration_seconds",
			"[ALPHA] Duration in seconds that a pod resize remains deferred before completion. Label 'priority_bucket' classifies the pod priority (system-critical: >=2000000000, high: 100000..1999999999, medium: 1..99999, normal: 0/default, low: -999..-1, very-low: <=-1000, unknown: nil pod). Label 'resolution' describes how the deferred resize was resolved (accepted, reverted, terminated).",
			[]float64{5, 10, 15, 20, 30, 45, 60, 90, 120, 150, 180, 300, 600, 1200, 1800, 3600}),
	}
}

// Requested counts what differs between the resources of two versions of a pod.
func (m *Resizes) Requested(old, now *v1.Pod) {
	for _, lists := range [][2][]v1.Container{{old.Spec.InitContainers, now.Spec.InitContainers}, {old.Spec.Containers, now.Spec.Containers}} {
		for i := range min(len(lists[0]), len(lists[1])) {
			was, is := lists[0][i].Resources, lists[1][i].Resources
			for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceCPU} {
				m.one(name, "requests", was.Requests[name], is.Requests[name])
				m.one(name, "limits", was.Limits[name], is.Limits[name])
			}
		}
	}
}

func (m *Resizes) one(name v1.ResourceName, requirement string, was, is resource.Quantity) {
	operation := ""
	switch c := is.Cmp(was); {
	case c == 0:
		return
	case was.IsZero():
		operation = "add"
	case is.IsZero():
		operation = "remove"
	case c > 0:
		operation = "increase"
	default:
		operation = "decrease"
	}
	m.requested.Inc("operation", operation, "requirement", requirement, "resource", string(name))
}

// Infeasible counts a resize that the node can never grant.
func (m *Resizes) Infeasible(detail string) { m.infeasible.Inc("reason_detail", detail) }

// Granted counts a resize that was deferred and is granted because of trigger, Resolved how long one was deferred and what
// became of it: accepted, reverted or terminated.
func (m *Resizes) Granted(trigger string) { m.accepted.Inc("retry_trigger", trigger) }

// Resolved takes in how long a resize was deferred.
func (m *Resizes) Resolved(p *v1.Pod, resolution string, waited time.Duration) {
	m.deferred.Observe(waited, "priority_bucket", priorityBucket(p), "resolution", resolution)
}

// Done takes in how long it took to carry a resize out.
func (m *Resizes) Done(took time.Duration, err error) {
	m.took.value(float64(took.Milliseconds()), "success", strconv.FormatBool(err == nil))
}

// Standing is where the resize of a pod stands.
type Standing struct {
	Pod *v1.Pod
	// Pending is deferred, infeasible or empty.
	Pending    string
	InProgress bool
}

// ResizeCensus adds the gauges of how many resizes wait and are under way.
func (k *Kubelet) ResizeCensus(list func() []Standing) {
	k.Main.Read("kubelet_pod_pending_resizes", "[ALPHA] Number of pending resizes for pods. Label 'priority_bucket' classifies the pod priority (system-critical: >=2000000000, high: 100000..1999999999, medium: 1..99999, normal: 0/default, low: -999..-1, very-low: <=-1000, unknown: nil pod). Label 'reason' describes the state (deferred, infeasible).", func(emit Emit) {
		sums := map[[2]string]float64{}
		for _, s := range list() {
			if s.Pending != "" {
				sums[[2]string{priorityBucket(s.Pod), s.Pending}]++
			}
		}
		for key, n := range sums {
			emit(n, "priority_bucket", key[0], "reason", key[1])
		}
	})
	k.Main.Read("kubelet_pod_in_progress_resizes", "[ALPHA] Number of in-progress resizes for pods.", func(emit Emit) {
		n := 0.0
		for _, s := range list() {
			if s.InProgress {
				n++
			}
		}
		emit(n)
	})
}

// priorityBucket sorts priorities as upstream does.
func priorityBucket(p *v1.Pod) string {
	const critical, high, low = 2_000_000_000, 100_000, -1000
	switch n := p.Spec.Priority; {
	case n == nil || *n == 0:
		return "normal"
	case *n >= critical:
		return "system-critical"
	case *n >= high:
		return "high"
	case *n > 0:
		return "medium"
	case *n > low:
		return "low"
	}
	return "very-low"
}
