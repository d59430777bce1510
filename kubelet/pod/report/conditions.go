package report

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// ours tells which conditions the kubelet owns. All others are left as the API has them.
func ours(t v1.PodConditionType) bool {
	switch t {
	case v1.PodScheduled, v1.PodReady, v1.PodInitialized, v1.ContainersReady, v1.PodReadyToStartContainers,
		v1.PodResizePending, v1.PodResizeInProgress, v1.AllContainersRestarting:
		return true
	}
	return false
}

func (s *stater) foreign() []v1.PodCondition {
	var list []v1.PodCondition
	for _, c := range s.d.Pod.Status.Conditions {
		if !ours(c.Type) {
			list = append(list, c)
		}
	}
	return list
}

// conditioner makes the conditions of a status.
type conditioner struct{ *stater }

// conditions makes the whole list. final is the phase that is coming, see phase.
func (s conditioner) conditions(st *v1.PodStatus, final v1.PodPhase) []v1.PodCondition {
	list := s.foreign()
	if end := s.d.End; end != nil && end.Condition != nil && pod.Terminal(st.Phase) {
		c := *end.Condition
		c.LastTransitionTime = metav1.NewTime(s.f.Now).Rfc3339Copy()
		list = replace(list, c)
	}
	if !pod.Terminal(st.Phase) {
		list = append(list, s.resize(v1.PodResizePending, s.f.Pending)...)
		list = append(list, s.resize(v1.PodResizeInProgress, s.f.Progress)...)
	}
	all := append(append([]v1.ContainerStatus{}, st.InitContainerStatuses...), st.ContainerStatuses...)
	containersReady := s.containersReady(all, final)
	made := []v1.PodCondition{
		s.readyToStart(),
		s.initialized(all, final),
		podReady(s.d.Pod, containersReady, list),
		containersReady,
		{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	}
	if pod.MayRestartAll(&s.d.Pod.Spec) {
		made = append(made, s.restartingAll(final))
	}
	for _, c := range made {
		c.ObservedGeneration = s.d.Pod.Generation
		c.LastTransitionTime = s.since(c)
		list = append(list, c)
	}
	return list
}

// resize is the condition that tells of a resize. Its time is that of the last change of its reason.
func (s conditioner) resize(t v1.PodConditionType, r *Resize) []v1.PodCondition {
	if r == nil {
		return nil
	}
	c := v1.PodCondition{Type: t, Status: v1.ConditionTrue, Reason: r.Reason, Message: r.Message, ObservedGeneration: r.Generation,
		LastTransitionTime: metav1.NewTime(s.f.Now).Rfc3339Copy()}
	for _, old := range s.old.Conditions {
		if old.Type == t && old.Reason == r.Reason && !old.LastTransitionTime.IsZero() {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	return []v1.PodCondition{c}
}

// since is the time of the condition's last change of status.
func (s conditioner) since(c v1.PodCondition) metav1.Time {
	for _, conditions := range [][]v1.PodCondition{s.old.Conditions, s.d.Pod.Status.Conditions} {
		for _, old := range conditions {
			if old.Type == c.Type && old.Status == c.Status && !old.LastTransitionTime.IsZero() {
				return old.LastTransitionTime
			}
		}
	}
	return metav1.NewTime(s.f.Now).Rfc3339Copy()
}

func replace(list []v1.PodCondition, c v1.PodCondition) []v1.PodCondition {
	for i := range list {
		if list[i].Type == c.Type {
			if list[i].Status == c.Status && list[i].Reason == c.Reason {
				c.LastTransitionTime = list[i].LastTransitionTime
			}
			list[i] = c
			return list
		}
	}
	return append(list, c)
}

func (s conditioner) readyToStart() v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionTrue}
	if _, why := pod.NeedsSandbox(s.d.Pod, s.o); why != "" {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "PodSandboxNotReady", why
	}
	return c
}

// restartingAll tells of a restart of all containers, until the last of them has been removed.
func (s conditioner) restartingAll(final v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	switch {
	case final == v1.PodSucceeded:
		c.Reason = "PodCompleted"
	case final == v1.PodFailed:
		c.Reason = "PodFailed"
	case s.restarting && pod.RestartingAll(s.d.Pod, s.o):
		c.Status, c.Reason, c.Message = v1.ConditionTrue, "RestartAllContainersStarted", "container exited with restart policy rule"
	}
	return c
}

func wasRestartingAll(st *v1.PodStatus) bool {
	for _, c := range st.Conditions {
		if c.Type == v1.AllContainersRestarting {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

// roll calls containers by name and sorts out those that are unknown or fail the test.
func roll(specs []v1.Container, all []v1.ContainerStatus, fine func(*v1.Container, *v1.ContainerStatus) bool) (unknown, bad []string) {
	byName := map[string]*v1.ContainerStatus{}
	for i := range all {
		byName[all[i].Name] = &all[i]
	}
	for i := range specs {
		c := &specs[i]
		if st := byName[c.Name]; st == nil {
			unknown = append(unknown, c.Name)
		} else if !fine(c, st) {
			bad = append(bad, c.Name)
		}
	}
	return unknown, bad
}

func complaint(unknown, bad []string, what string) string {
	var parts []string
	if len(unknown) > 0 {
		parts = append(parts, fmt.Sprintf("containers with unknown status: %s", unknown))
	}
	if len(bad) > 0 {
		parts = append(parts, fmt.Sprintf("containers with %s status: %s", what, bad))
	}
	return strings.Join(parts, ", ")
}

func (s conditioner) initialized(all []v1.ContainerStatus, final v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	unknown, bad := roll(s.d.Pod.Spec.InitContainers, all, func(c *v1.Container, st *v1.ContainerStatus) bool {
		if pod.Sidecar(c) {
			return st.Started != nil && *st.Started
		}
		return st.Ready
	})
	if final == v1.PodSucceeded && len(unknown) == 0 {
		c.Reason = "PodCompleted"
		return c
	}
	msg := complaint(unknown, bad, "incomplete")
	if msg == "" || mainEverStarted(&s.d.Pod.Spec, all) {
		return c
	}
	c.Status, c.Reason, c.Message = v1.ConditionFalse, "ContainersNotInitialized", msg
	return c
}

func mainEverStarted(spec *v1.PodSpec, all []v1.ContainerStatus) bool {
	_, started := roll(spec.Containers, all, func(_ *v1.Container, st *v1.ContainerStatus) bool {
		return st.State.Running == nil && st.State.Terminated == nil && st.LastTerminationState.Terminated == nil
	})
	return len(started) > 0
}

func (s conditioner) containersReady(all []v1.ContainerStatus, final v1.PodPhase) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionFalse}
	var specs []v1.Container
	for _, init := range s.d.Pod.Spec.InitContainers {
		if pod.Sidecar(&init) {
			specs = append(specs, init)
		}
	}
	specs = append(specs, s.d.Pod.Spec.Containers...)
	unknown, bad := roll(specs, all, func(_ *v1.Container, st *v1.ContainerStatus) bool { return st.Ready })
	switch {
	case final == v1.PodSucceeded && len(unknown) == 0:
		c.Reason = "PodCompleted"
	case final == v1.PodFailed:
		c.Reason = "PodFailed"
	case len(unknown)+len(bad) > 0:
		c.Reason, c.Message = "ContainersNotReady", complaint(unknown, bad, "unready")
	default:
		c.Status = v1.ConditionTrue
	}
	return c
}

// podReady adds the readiness gates to the readiness of the containers.
func podReady(p *v1.Pod, containers v1.PodCondition, list []v1.PodCondition) v1.PodCondition {
	c := containers
	c.Type = v1.PodReady
	if c.Status != v1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range p.Spec.ReadinessGates {
		if m := gateMissing(gate.ConditionType, list); m != "" {
			missing = append(missing, m)
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	return c
}

func gateMissing(t v1.PodConditionType, list []v1.PodCondition) string {
	for _, c := range list {
		if c.Type == t && c.Status == v1.ConditionTrue {
			return ""
		}
		if c.Type == t {
			return fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", string(t), c.Status)
		}
	}
	return fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", string(t))
}
