// Package preempt makes room for critical pods: a pod of the system's priority classes, or one from a file, is not refused because
// others have what it needs. Those have to go, of lower priority all of them, as few as can be.
package preempt

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/admit"
)

// Upstream's words.
const (
	reason  = "Preempting"
	message = "Preempted in order to admit critical pod"
)

// Config of an Admission. All fields are required.
type Config struct {
	// Evict ends a pod.
	Evict func(uid types.UID, end pod.End) bool
	// Ended gives a channel that is closed once a pod holds nothing of the node any more.
	Ended func(uid types.UID) <-chan struct{}
	// Event records a warning about a pod.
	Event func(p *v1.Pod, container, reason, format string, args ...any)
	// Preempted is told of each pod that had to go, and for which resource first.
	Preempted func(signal string)
	// Stopped is closed when the kubelet ends: then nobody ends pods any more, and they are not waited for.
	Stopped <-chan struct{}
}

// Admission decides about new pods, and makes room for critical ones.
type Admission struct{ Config }

// Check is admit.Check, with room being made where that helps. Then it waits until the pods that had to go have ended.
func (a Admission) Check(p *v1.Pod, static bool, active []*v1.Pod, n admit.Node) *admit.Refusal {
	refusal := admit.Check(p, static, active, n)
	if refusal == nil || !pod.Critical(p) {
		return refusal
	}
	needs, unbounded := admit.Lacking(p, active, n), n
	unbounded.Allocatable = nil
	if other := admit.Check(p, static, active, unbounded); other != nil {
		return other // what stands in the way whatever room there is
	}
	if len(needs) == 0 {
		return refusal
	}
	victims, err := Choose(p, active, needs)
	if err != nil {
		return &admit.Refusal{Reason: "UnexpectedAdmissionError", Message: fmt.Sprintf(
			"Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: %v", err)}
	}
	for _, v := range victims {
		a.Event(v, "", reason, message)
		a.Evict(v.UID, end(v, time.Now()))
		a.Preempted(string(needs[0].Name))
	}
	a.await(victims)
	return nil
}

// end is how a pod ends that has to make room: with its own grace period.
func end(p *v1.Pod, now time.Time) pod.End {
	return pod.End{Deadline: now.Add(grace(p)), Phase: v1.PodFailed, Reason: reason, Message: message,
		Condition: &v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet,
			Message: "Pod was preempted by Kubelet to accommodate a critical pod."}}
}

func grace(p *v1.Pod) time.Duration {
	if s := p.Spec.TerminationGracePeriodSeconds; s != nil {
		return time.Duration(*s) * time.Second
	}
	return 30 * time.Second
}

// least is how long it is waited for their end at least.
const least = 10 * time.Second

// await waits until the pods have ended. One that does not, after its grace period and half of it, is waited for no longer.
func (a Admission) await(victims []*v1.Pod) {
	most := least
	for _, v := range victims {
		most = max(most, grace(v)*3/2)
	}
	late := time.NewTimer(most)
	defer late.Stop()
	for _, v := range victims {
		select {
		case <-a.Ended(v.UID):
		case <-late.C:
			return
		case <-a.Stopped:
			return
		}
	}
}

// preemptable tells whether a pod that runs has to go for p if need be.
func preemptable(p, running *v1.Pod) bool {
	if pod.Critical(p) && !pod.Critical(running) {
		return true
	}
	return p.Spec.Priority != nil && running.Spec.Priority != nil && *p.Spec.Priority > *running.Spec.Priority
}
