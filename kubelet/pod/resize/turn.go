package resize

import (
	"cmp"
	"time"

	v1 "k8s.io/api/core/v1"
	corev1 "k8s.io/component-helpers/scheduling/corev1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Waiting is a resize that is deferred: what the pod desires, and what it was granted.
type Waiting struct {
	Pod     *v1.Pod
	Granted Allocation
	// Since is when it was deferred, zero if that is not known.
	Since time.Time
}

// Turn orders resizes by which is looked at first when something has become free, as upstream does: those that ask for no more
// than they have, then by priority, then those of Guaranteed pods, then who has waited longest.
func Turn(a, b Waiting) int {
	return cmp.Or(
		last(a.grows(), b.grows()),
		-cmp.Compare(corev1.PodPriority(a.Pod), corev1.PodPriority(b.Pod)),
		last(pod.QOS(a.Pod) != v1.PodQOSGuaranteed, pod.QOS(b.Pod) != v1.PodQOSGuaranteed),
		last(a.Since.IsZero(), b.Since.IsZero()),
		a.Since.Compare(b.Since),
	)
}

// grows tells whether the pod requests more than it was granted.
func (w Waiting) grows() bool {
	has, wants := requests(Apply(w.Pod, w.Granted)), requests(w.Pod)
	return wants.Cpu().Cmp(*has.Cpu()) > 0 || wants.Memory().Cmp(*has.Memory()) > 0
}

// last puts what is true behind what is not.
func last(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}
