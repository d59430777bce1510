package historytest

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Status is the answer to "status": the status in short. The first line is the phase, with reason, message and address;
// the last one has the conditions; between them each container has a line.
func Status(st *v1.PodStatus) []string {
	head := string(st.Phase)
	if st.Reason != "" {
		head += " " + st.Reason + ": " + st.Message
	}
	if st.PodIP != "" {
		head += " ip=" + st.PodIP
	}
	out := []string{head}
	for _, c := range containers(st) {
		line := fmt.Sprintf("%s: %s", c.Name, state(c.State))
		if c.Ready {
			line += " ready"
		}
		if c.RestartCount > 0 {
			line += fmt.Sprintf(" restarts=%d", c.RestartCount)
		}
		if c.LastTerminationState.Terminated != nil {
			line += " last=" + state(c.LastTerminationState)
		}
		out = append(out, line)
	}
	line := ""
	for _, c := range st.Conditions {
		mark := map[v1.ConditionStatus]string{v1.ConditionTrue: "+", v1.ConditionFalse: "-"}[c.Status]
		line += " " + mark + string(c.Type)
		if c.Reason != "" {
			line += "(" + c.Reason + ")"
		}
	}
	return append(out, strings.TrimSpace(line))
}

func containers(st *v1.PodStatus) []v1.ContainerStatus {
	var all []v1.ContainerStatus
	for _, list := range [][]v1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		all = append(all, list...)
	}
	return all
}

func state(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("%s(%d)", s.Terminated.Reason, s.Terminated.ExitCode)
	case s.Waiting != nil && s.Waiting.Reason != "":
		return "waiting " + s.Waiting.Reason
	}
	return "waiting"
}

// Condition is the answer to "condition TYPE": one condition in full. Its time is told as the time since epoch.
func Condition(st *v1.PodStatus, name string, epoch time.Time) string {
	for _, c := range st.Conditions {
		if string(c.Type) == name {
			return strings.TrimSpace(fmt.Sprintf("%s %s: %s since=%v generation=%d", c.Status, c.Reason, c.Message,
				c.LastTransitionTime.Sub(epoch), c.ObservedGeneration))
		}
	}
	return "none"
}

// Container is the answer to "container NAME": the status of one container in full.
func Container(st *v1.PodStatus, name string) string {
	for _, c := range containers(st) {
		if c.Name != name {
			continue
		}
		out := fmt.Sprintf("id=%s image=%s started=%v ready=%v restarts=%d", c.ContainerID, c.Image, c.Started != nil && *c.Started, c.Ready, c.RestartCount)
		if t := c.State.Terminated; t != nil {
			out += fmt.Sprintf(" ended: %s(%d) %q", t.Reason, t.ExitCode, t.Message)
		}
		if s := c.State.Waiting; s != nil {
			out += fmt.Sprintf(" waits: %s %q", s.Reason, s.Message)
		}
		if c.Resources != nil && len(c.Resources.Requests) > 0 {
			granted := Written(v1.ResourceRequirements{Requests: c.AllocatedResources})
			out += fmt.Sprintf(" has %s, granted %s", Written(*c.Resources), granted)
		}
		if t := c.LastTerminationState.Terminated; t != nil {
			out += fmt.Sprintf(" last: %s(%d) %q", t.Reason, t.ExitCode, t.Message)
		}
		return out
	}
	return "none"
}

// Resources reads cpu=100m/200m memory=10Mi: requests and limits.
func Resources(list []string) v1.ResourceRequirements {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}
	for _, item := range list {
		name, values, _ := strings.Cut(item, "=")
		request, limit, limited := strings.Cut(values, "/")
		r.Requests[v1.ResourceName(name)] = resource.MustParse(request)
		if limited {
			r.Limits[v1.ResourceName(name)] = resource.MustParse(limit)
		}
	}
	return r
}

// Written is Resources the other way round.
func Written(r v1.ResourceRequirements) string {
	var out []string
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		request, asks := r.Requests[name]
		limit, limited := r.Limits[name]
		if asks && limited {
			out = append(out, fmt.Sprintf("%s=%s/%s", name, request.String(), limit.String()))
		} else if asks {
			out = append(out, fmt.Sprintf("%s=%s", name, request.String()))
		}
	}
	return strings.Join(out, " ")
}
