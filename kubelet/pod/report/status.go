// Package report makes the status of a pod that the API is told, from what is desired, what is observed and what is about
// to be done. It is pure, as package pod is.
package report

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/resize"
)

// Facts are what a status needs beside desired and observed.
type Facts struct {
	Now time.Time
	// HostIPs of the node, the primary one first.
	HostIPs []string
	// Runtime is the scheme of container IDs: containerd, skiff …
	Runtime string
	// Pending and Progress tell of a resize: that it waits, and that it is carried out. Nil when there is none.
	Pending, Progress *Resize
	// Health tells how what the containers have been given of the machine is, by container name.
	Health map[string][]v1.ResourceStatus
	// Last is the status made before this one, nil at first: then the API's is the base.
	Last *v1.PodStatus
	// Held: devices are prepared for the pod. Others may get them once it is told to be over, so that has to wait.
	Held bool
}

// Resize is where a change of the pod's resources stands.
type Resize struct {
	// Reason and Message as the condition shows them.
	Reason, Message string
	// Generation of the pod that asked for it.
	Generation int64
}

// Status is what to tell the API about the pod. It is made from scratch each time; only what the runtime no longer knows
// is taken from the last status: states of removed containers, times of transitions, the phase once it is terminal.
func Status(d pod.Desired, o pod.Observed, a pod.Actions, f Facts) v1.PodStatus {
	s := stater{d: d, o: &o, a: a, f: f, old: d.Pod.Status}
	if f.Last != nil {
		s.old = *f.Last
	}
	s.restarting = pod.MayRestartAll(&d.Pod.Spec) && d.End == nil && (pod.RestartingAll(d.Pod, &o) || wasRestartingAll(&s.old))
	return s.status()
}

type stater struct {
	d   pod.Desired
	o   *pod.Observed
	a   pod.Actions
	f   Facts
	old v1.PodStatus
	// restarting: a rule restarts all containers of the pod.
	restarting bool
}

// over tells whether nothing of the pod runs and nothing will.
func (s *stater) over() bool {
	if s.d.End == nil || s.o.Busy {
		return false
	}
	return !s.anyAlive()
}

func (s *stater) anyAlive() bool {
	for i := range s.o.Containers {
		if s.o.Alive(&s.o.Containers[i]) {
			return true
		}
	}
	return false
}

func (s *stater) status() v1.PodStatus {
	api := &s.d.Pod.Status
	st := v1.PodStatus{
		ObservedGeneration:          s.d.Pod.Generation,
		QOSClass:                    pod.QOS(s.d.Pod),
		StartTime:                   s.startTime(),
		NominatedNodeName:           api.NominatedNodeName,
		ResourceClaimStatuses:       api.ResourceClaimStatuses,
		ExtendedResourceClaimStatus: api.ExtendedResourceClaimStatus,
	}
	st.AllocatedResources = resourcehelper.PodRequests(s.d.Pod, resourcehelper.PodResourcesOptions{})
	st.Resources = s.effective()
	s.addresses(&st)
	if s.d.End != nil && s.d.End.Rejected && len(s.o.Containers) == 0 {
		return s.rejected(st)
	}
	spec := &s.d.Pod.Spec
	st.InitContainerStatuses = s.containers(spec.InitContainers, s.old.InitContainerStatuses, true)
	st.ContainerStatuses = s.containers(spec.Containers, s.old.ContainerStatuses, false)
	st.EphemeralContainerStatuses = s.containers(ephemeralSpecs(spec), s.old.EphemeralContainerStatuses, false)
	for i := range st.EphemeralContainerStatuses { // they have no probes: upstream says neither
		st.EphemeralContainerStatuses[i].Ready, st.EphemeralContainerStatuses[i].Started = false, nil
	}
	final := s.phase(&st)
	st.Conditions = conditioner{s}.conditions(&st, final)
	if s.a.Done {
		s.terminateUnknown(&st)
	}
	return st
}

// effective are the resources of the pod as a whole: its own, and where it has none, what its containers have got.
func (s *stater) effective() *v1.ResourceRequirements {
	p := resize.Apply(s.d.Pod, s.o.Actual)
	return &v1.ResourceRequirements{
		Requests: resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}),
		Limits:   resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{}),
	}
}

// rejected is the status of a pod that the node refused.
func (s *stater) rejected(st v1.PodStatus) v1.PodStatus {
	st.Phase, st.Reason, st.Message = v1.PodFailed, s.d.End.Reason, s.d.End.Message
	st.Conditions = s.foreign()
	st.InitContainerStatuses = s.old.InitContainerStatuses
	st.ContainerStatuses = s.old.ContainerStatuses
	for _, c := range s.old.Conditions {
		if ours(c.Type) {
			st.Conditions = append(st.Conditions, c)
		}
	}
	return st
}

func ephemeralSpecs(spec *v1.PodSpec) []v1.Container {
	var list []v1.Container
	for i := range spec.EphemeralContainers {
		list = append(list, v1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	return list
}

func (s *stater) startTime() *metav1.Time {
	for _, t := range []*metav1.Time{s.old.StartTime, s.d.Pod.Status.StartTime} {
		if t != nil && !t.IsZero() {
			return t
		}
	}
	now := metav1.NewTime(s.f.Now).Rfc3339Copy()
	return &now
}

// addresses fills in the node's and the pod's addresses. Those of a pod whose sandbox is gone are kept: they tell where
// it was.
func (s *stater) addresses(st *v1.PodStatus) {
	for _, ip := range s.f.HostIPs {
		st.HostIPs = append(st.HostIPs, v1.HostIP{IP: ip})
	}
	var ips []string
	if s.d.Pod.Spec.HostNetwork {
		if len(s.o.Sandboxes) > 0 || s.old.PodIP != "" {
			ips = s.f.HostIPs
		}
	} else if len(s.o.Sandboxes) > 0 {
		ips = s.o.Sandboxes[0].IPs
	}
	for _, ip := range ips {
		st.PodIPs = append(st.PodIPs, v1.PodIP{IP: ip})
	}
	if len(st.PodIPs) == 0 && s.d.End != nil {
		st.PodIPs = s.old.PodIPs
	}
	if len(st.HostIPs) > 0 {
		st.HostIP = st.HostIPs[0].IP
	}
	if len(st.PodIPs) > 0 {
		st.PodIP = st.PodIPs[0].IP
	}
}

// phase sets phase, reason and message. A terminal phase is told only once nothing runs and no device is held any more; until
// then the phase stays and final says which one is coming, so that the conditions can already tell that the pod is not ready.
// Of a pod that fails only because it is stopped, they tell what they told before.
func (s *stater) phase(st *v1.PodStatus) (final v1.PodPhase) {
	all := append(append([]v1.ContainerStatus{}, st.ContainerStatuses...), st.InitContainerStatuses...)
	phase := countPhase(&s.d.Pod.Spec, all, phaseFacts{
		terminal:    s.over() && !s.d.Static,
		initialised: pod.MainStarted(s.d.Pod, s.o),
		again:       s.comingAgain(),
	})
	end := s.d.End
	if end != nil && end.Phase != "" {
		phase = end.Phase
	}
	final = phase
	stopped := s.a.Done && !s.d.Static && !pod.Terminal(phase)
	if stopped {
		phase = v1.PodFailed
	}
	failed := pod.Terminal(s.d.Pod.Status.Phase)
	if pod.Terminal(s.old.Phase) {
		failed = !unreadyAtEnd(&s.old)
	}
	for _, earlier := range []v1.PodPhase{s.old.Phase, s.d.Pod.Status.Phase} {
		if pod.Terminal(earlier) {
			phase = earlier
		}
	}
	if !stopped || failed {
		final = phase
	}
	st.Phase = phase
	if end != nil && end.Phase != "" && phase == end.Phase {
		st.Reason, st.Message = end.Reason, end.Message
	}
	if pod.Terminal(phase) && !pod.Terminal(s.old.Phase) && (s.anyAlive() || s.o.Busy || s.f.Held) {
		st.Phase = s.old.Phase
		if st.Phase == "" {
			st.Phase = v1.PodPending
		}
		st.Reason, st.Message = s.old.Reason, s.old.Message
	}
	if st.Phase == s.old.Phase && st.Reason == "" && st.Message == "" {
		st.Reason, st.Message = s.old.Reason, s.old.Message
	}
	return final
}

// unreadyAtEnd tells whether the pod was stopped as it was, and not ready for its containers' sake.
func unreadyAtEnd(st *v1.PodStatus) bool {
	return slices.ContainsFunc(st.Conditions, func(c v1.PodCondition) bool {
		return c.Type == v1.ContainersReady && c.Reason == "ContainersNotReady"
	})
}

// comingAgain names the containers that were stopped to be started again.
func (s *stater) comingAgain() map[string]bool {
	again := map[string]bool{}
	for i := range s.o.Containers {
		if c := &s.o.Containers[i]; (s.restarting || s.o.Kills[c.ID].Restart) && s.o.Newest(c.Name) == c {
			again[c.Name] = true
		}
	}
	return again
}

// phaseFacts are what the phase needs beside the container statuses.
type phaseFacts struct {
	// terminal: nothing will be started again, whatever the restart policy says.
	terminal bool
	// initialised: a main container has started in this sandbox.
	initialised bool
	// again names containers that were stopped to be started again, whatever policy and exit code say.
	again map[string]bool
}

// tally counts container states for the phase.
type tally struct {
	pendingInits, pendingSidecars, hopelessInits         int
	unknown, running, waiting, stopped, final, succeeded int
	again                                                map[string]bool
}

// countPhase derives the phase from the container statuses.
func countPhase(spec *v1.PodSpec, all []v1.ContainerStatus, f phaseFacts) v1.PodPhase {
	t := tally{again: f.again}
	byName := map[string]*v1.ContainerStatus{}
	for i := range all {
		byName[all[i].Name] = &all[i]
	}
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		if pod.Sidecar(c) {
			t.sidecar(byName[c.Name])
		} else {
			t.init(spec, c, byName[c.Name])
		}
	}
	for i := range spec.Containers {
		t.main(spec, &spec.Containers[i], byName[spec.Containers[i].Name])
	}
	return t.phase(f)
}

// lastExit is the exit the status tells of: the present state, or the one before a wait.
func lastExit(st *v1.ContainerStatus) *v1.ContainerStateTerminated {
	if st.State.Terminated != nil {
		return st.State.Terminated
	}
	if st.State.Waiting != nil {
		return st.LastTerminationState.Terminated
	}
	return nil
}

func (t *tally) comesAgain(spec *v1.PodSpec, c *v1.Container, exit *v1.ContainerStateTerminated) bool {
	return t.again[c.Name] || exit.Reason == reasonRestartingAll || pod.RestartsAfter(spec, c, exit.ExitCode)
}

func (t *tally) init(spec *v1.PodSpec, c *v1.Container, st *v1.ContainerStatus) {
	if st == nil || st.State.Running != nil {
		t.pendingInits++
		return
	}
	exit := lastExit(st)
	switch {
	case exit == nil:
		t.pendingInits++
	case exit.ExitCode != 0 && !t.comesAgain(spec, c, exit):
		t.hopelessInits++
	}
}

func (t *tally) sidecar(st *v1.ContainerStatus) {
	switch {
	case st == nil:
		t.unknown++
	case st.State.Running != nil:
		t.running++
		if st.Started == nil || !*st.Started {
			t.pendingSidecars++
		}
	case lastExit(st) != nil: // a stopped sidecar does not count for the phase
	case st.State.Waiting != nil:
		t.pendingSidecars++
		t.waiting++
	default:
		t.pendingSidecars++
		t.unknown++
	}
}

func (t *tally) main(spec *v1.PodSpec, c *v1.Container, st *v1.ContainerStatus) {
	switch {
	case st == nil:
		t.unknown++
		return
	case st.State.Running != nil:
		t.running++
		return
	}
	exit := lastExit(st)
	if exit == nil {
		if st.State.Waiting != nil {
			t.waiting++
		} else {
			t.unknown++
		}
		return
	}
	t.stopped++
	if !t.comesAgain(spec, c, exit) {
		t.final++
	}
	if st.State.Terminated != nil && exit.ExitCode == 0 {
		t.succeeded++
	}
}

func (t *tally) phase(f phaseFacts) v1.PodPhase {
	switch {
	case t.hopelessInits > 0:
		return v1.PodFailed
	case t.pendingInits > 0, t.pendingSidecars > 0 && !f.initialised, t.waiting > 0:
		return v1.PodPending
	case t.running > 0 && t.unknown == 0:
		return v1.PodRunning
	case t.running > 0 || t.stopped == 0 || t.unknown > 0:
		return v1.PodPending
	case !f.terminal && t.stopped != t.final:
		return v1.PodRunning
	case t.stopped == t.succeeded:
		return v1.PodSucceeded
	}
	return v1.PodFailed
}
