package report

import (
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

const (
	// killedCode is reported when the real exit code cannot be known.
	killedCode    = 137
	reasonUnknown = "ContainerStatusUnknown"
	lostMessage   = "The container could not be located when the pod was terminated"

	reasonRestartingAll = "RestartingAllContainers"
	restartingMessage   = "The container is removed because RestartAllContainers in place"
)

// containers makes the statuses of one list of containers: of init containers in the order of the spec, of others by name.
func (s *stater) containers(specs []v1.Container, old []v1.ContainerStatus, init bool) []v1.ContainerStatus {
	before := map[string]*v1.ContainerStatus{}
	for i := range old {
		before[old[i].Name] = &old[i]
	}
	var list []v1.ContainerStatus
	for i := range specs {
		c := &specs[i]
		st := s.container(c, before[c.Name])
		if !s.settledInit(c, &st, init) {
			s.hold(c, &st)
		}
		s.readiness(c, &st, init)
		health(s.f.Health, &st, before[c.Name])
		list = append(list, st)
	}
	if !init {
		slices.SortStableFunc(list, func(a, b v1.ContainerStatus) int { return strings.Compare(a.Name, b.Name) })
	}
	return list
}

// container makes the status of one container from its two newest instances, or from the last status when the runtime
// knows none.
func (s *stater) container(c *v1.Container, old *v1.ContainerStatus) v1.ContainerStatus {
	var history []*pod.Container
	for i := range s.o.Containers {
		if one := &s.o.Containers[i]; one.Name == c.Name && !s.o.Unborn(one) {
			history = append(history, one)
		}
	}
	if len(history) == 0 {
		return s.vanished(c, old)
	}
	st := s.convert(c, history[0], old)
	st.VolumeMounts = volumeMounts(c)
	if len(history) > 1 {
		st.LastTerminationState = s.convert(c, history[1], nil).State
		st.LastTerminationState.Running, st.LastTerminationState.Waiting = nil, nil
		return st
	}
	if old != nil && old.ContainerID != st.ContainerID && old.State.Terminated != nil {
		st.LastTerminationState = v1.ContainerState{Terminated: old.State.Terminated}
	} else if last := lastOf(old); last == nil || last.ContainerID != st.ContainerID { // it was its own last state in a back-off
		st.LastTerminationState.Terminated = last
	}
	return st
}

func lastOf(old *v1.ContainerStatus) *v1.ContainerStateTerminated {
	if old == nil {
		return nil
	}
	return old.LastTerminationState.Terminated
}

// vanished is the status of a container that the runtime does not know: not yet created, or removed.
func (s *stater) vanished(c *v1.Container, old *v1.ContainerStatus) v1.ContainerStatus {
	if s.restarting && old != nil && old.State.Waiting == nil {
		return removedToRestart(c, old)
	}
	if old != nil && old.State.Terminated != nil {
		return *old.DeepCopy()
	}
	reason := "ContainerCreating"
	if len(s.d.Pod.Spec.InitContainers) > 0 {
		reason = "PodInitializing"
	}
	st := v1.ContainerStatus{Name: c.Name, Image: c.Image, VolumeMounts: volumeMounts(c),
		State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reason}}}
	if old == nil {
		return st
	}
	st.RestartCount, st.LastTerminationState = old.RestartCount, old.LastTerminationState
	if old.State.Running == nil {
		return st
	}
	if st.LastTerminationState.Terminated == nil {
		st.LastTerminationState.Terminated = &v1.ContainerStateTerminated{Reason: reasonUnknown, ExitCode: killedCode,
			Message: "The container could not be located when the pod was deleted.  The container used to be Running"}
		if s.d.Pod.DeletionTimestamp == nil {
			st.RestartCount++
		}
	}
	return st
}

// removedToRestart is the status of a container that was removed to restart all of the pod.
func removedToRestart(c *v1.Container, old *v1.ContainerStatus) v1.ContainerStatus {
	return v1.ContainerStatus{Name: c.Name, Image: c.Image, VolumeMounts: volumeMounts(c), RestartCount: old.RestartCount + 1,
		State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: reasonRestartingAll, Message: restartingMessage}},
		LastTerminationState: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: reasonRestartingAll,
			Message: restartingMessage, ExitCode: killedCode}}}
}

// resources are those that a running container has got; others show what was granted.
func (s *stater) resources(spec *v1.Container, c *pod.Container) *v1.ResourceRequirements {
	has, ok := s.o.Actual[c.Name]
	if !ok || c.State != pod.Running {
		return spec.Resources.DeepCopy()
	}
	shown := has.DeepCopy()
	if s.d.Pod.Spec.Resources != nil { // limits that the pod as a whole has are not the container's own
		maps.DeleteFunc(shown.Limits, func(name v1.ResourceName, _ resource.Quantity) bool {
			_, own := spec.Resources.Limits[name]
			return !own
		})
	}
	return shown
}

// imageName is the image as people know it. A runtime that was given an image by its ID may have no better name for it.
func imageName(c *pod.Container, spec *v1.Container) string {
	if bare := strings.HasPrefix(c.Image, "sha256:") || c.Image == ""; bare && (c.Hash == 0 || c.Hash == pod.Hash(spec)) {
		return spec.Image
	}
	return c.Image
}

func (s *stater) convert(spec *v1.Container, c *pod.Container, old *v1.ContainerStatus) v1.ContainerStatus {
	id := s.f.Runtime + "://" + c.ID
	st := v1.ContainerStatus{Name: c.Name, RestartCount: int32(c.Restarts), Image: imageName(c, spec), ImageID: c.ImageID, ContainerID: id,
		User: c.User, Resources: s.resources(spec, c), AllocatedResources: spec.Resources.Requests}
	if old != nil && old.RestartCount > st.RestartCount {
		st.RestartCount = old.RestartCount
	}
	switch c.State {
	case pod.Running:
		st.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}
		if old != nil && old.State.Terminated != nil && old.RestartCount >= int32(c.Restarts) {
			st.RestartCount = old.RestartCount + 1 // the one before was removed, see restarter
		}
	case pod.Exited:
		// An exit does not change any more, but the termination message can be read only once.
		if old != nil && old.ContainerID == id && old.State.Terminated != nil && old.State.Terminated.ContainerID == id {
			st.State.Terminated = old.State.Terminated
			break
		}
		st.State.Terminated = &v1.ContainerStateTerminated{ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message,
			StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt), ContainerID: id}
	case pod.Unknown:
		if old != nil && old.State.Running != nil {
			st.State.Terminated = &v1.ContainerStateTerminated{Reason: reasonUnknown, Message: lostMessage, ExitCode: killedCode}
			if s.restarting {
				st.State.Terminated.Reason = reasonRestartingAll
			}
			st.RestartCount = old.RestartCount + 1
			break
		}
		fallthrough
	default:
		st.State.Waiting = &v1.ContainerStateWaiting{}
	}
	return st
}

// health tells how the devices of the container are (KEP-4680). Once it has them no longer, how they were last.
func health(of map[string][]v1.ResourceStatus, st, old *v1.ContainerStatus) {
	if now, ok := of[st.Name]; ok {
		st.AllocatedResourcesStatus = now
	} else if old != nil {
		st.AllocatedResourcesStatus = old.AllocatedResourcesStatus
	}
}

// settledInit handles init containers that are never started again: the finished ones, and those which the runtime has
// forgotten although main containers exist.
func (s *stater) settledInit(c *v1.Container, st *v1.ContainerStatus, init bool) bool {
	if !init || s.restarting {
		return false
	}
	last := s.o.Newest(c.Name)
	if last != nil && last.State == pod.Exited && last.ExitCode == 0 && !pod.Sidecar(c) {
		return true
	}
	if last == nil && !pod.Sidecar(c) && st.State.Waiting != nil && pod.MainCreated(s.d.Pod, s.o) {
		st.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: "Completed",
			Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"}}
		return true
	}
	return false
}

// hold shows the reason why a container that should run does not.
func (s *stater) hold(c *v1.Container, st *v1.ContainerStatus) {
	fault, ok := s.a.Waiting[c.Name]
	if !ok || s.d.End != nil || !pod.WantsStart(s.d.Pod, c, s.o) {
		return
	}
	if st.State.Terminated != nil {
		st.LastTerminationState = st.State
	}
	st.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: fault.Reason, Message: fault.Message}}
}

// readiness fills in Started and Ready from the probes' verdicts.
func (s *stater) readiness(c *v1.Container, st *v1.ContainerStatus, init bool) {
	started := false
	st.Started = &started
	if init && !pod.Sidecar(c) {
		st.Ready = st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
		started = st.State.Running != nil
		return
	}
	st.Ready = false
	last := s.o.Newest(c.Name)
	if st.State.Running == nil || last == nil {
		return
	}
	probes := s.o.Probes[last.ID]
	started = c.StartupProbe == nil || probes.Startup == pod.Success
	st.Ready = started && (c.ReadinessProbe == nil || probes.Readiness == pod.Success)
}

// terminateUnknown makes every container of a pod that is over terminated: for those that cannot be found, the worst is
// assumed.
func (s *stater) terminateUnknown(st *v1.PodStatus) {
	lost := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{Reason: reasonUnknown, Message: lostMessage, ExitCode: killedCode}}
	if s.wasInitialised(st) {
		for i := range st.ContainerStatuses {
			if st.ContainerStatuses[i].State.Terminated == nil {
				st.ContainerStatuses[i].State = lost
			}
		}
	}
	seen := len(st.InitContainerStatuses)
	for seen > 0 && st.InitContainerStatuses[seen-1].LastTerminationState.Terminated == nil &&
		st.InitContainerStatuses[seen-1].State.Waiting != nil {
		seen--
	}
	for i := range st.InitContainerStatuses[:seen] {
		if st.InitContainerStatuses[i].State.Terminated == nil {
			st.InitContainerStatuses[i].State = lost
		}
	}
}

// wasInitialised tells whether a main container could have run.
func (s *stater) wasInitialised(st *v1.PodStatus) bool {
	if len(s.d.Pod.Spec.InitContainers) == 0 {
		return true
	}
	for i := range st.ContainerStatuses {
		c := &st.ContainerStatuses[i]
		if c.LastTerminationState.Terminated != nil || c.State.Waiting == nil {
			return true
		}
	}
	last := &st.InitContainerStatuses[len(st.InitContainerStatuses)-1]
	if pod.Sidecar(&s.d.Pod.Spec.InitContainers[len(st.InitContainerStatuses)-1]) {
		return last.State.Running != nil && last.Started != nil && *last.Started
	}
	exit := lastExit(last)
	return exit != nil && exit.ExitCode == 0
}

func volumeMounts(c *v1.Container) []v1.VolumeMountStatus {
	var list []v1.VolumeMountStatus
	for _, m := range c.VolumeMounts {
		st := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled {
				mode = v1.RecursiveReadOnlyEnabled
			}
			st.RecursiveReadOnly = &mode
		}
		list = append(list, st)
	}
	return list
}
