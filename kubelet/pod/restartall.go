package pod

import (
	"slices"

	v1 "k8s.io/api/core/v1"
)

// A container may have a rule that restarts all of the pod when it exits with a certain code (KEP-5532). Sandbox, volumes,
// address and UID stay. It goes so:
//
//	C exits by the rule ─► all others are killed ─► and removed ─► C is removed ─► the pod begins with its first init container
//
// C is removed last: that it is there tells that a restart is under way, so nothing has to be remembered.

// restartsAll tells whether the container has ended in a way that restarts all of the pod.
func restartsAll(p *v1.Pod, c *Container) bool {
	spec := Find(p, c.Name)
	if spec == nil || c.State != Exited {
		return false
	}
	for _, rule := range spec.RestartPolicyRules {
		if ruleMatches(rule, c.ExitCode) {
			return rule.Action == v1.ContainerRestartRuleActionRestartAllContainers
		}
	}
	return false
}

// RestartingAll tells whether a restart of all containers is under way.
func RestartingAll(p *v1.Pod, o *Observed) bool {
	for i := range o.Containers {
		if c := &o.Containers[i]; o.Newest(c.Name) == c && restartsAll(p, c) {
			return true
		}
	}
	return false
}

// MayRestartAll tells whether any container of the pod has such a rule.
func MayRestartAll(spec *v1.PodSpec) bool {
	has := func(c v1.Container) bool {
		return slices.ContainsFunc(c.RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
			return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
		})
	}
	return slices.ContainsFunc(spec.InitContainers, has) || slices.ContainsFunc(spec.Containers, has)
}

// restarter restarts all containers of a pod.
type restarter struct{ *planner }

// step takes the next step of restarting all containers, and tells whether there is one. Ephemeral containers are
// left alone.
func (pl restarter) step() bool {
	if !MayRestartAll(&pl.d.Pod.Spec) || !RestartingAll(pl.d.Pod, pl.o) {
		return false
	}
	pl.acts.Cancel = pl.o.Busy
	var causes, others []string
	waits := pl.o.Busy
	for i := range pl.o.Containers {
		c := &pl.o.Containers[i]
		switch {
		case pl.isEphemeral(c.Name):
		case pl.o.Alive(c):
			waits = true
			pl.killAtOnce(c)
		case restartsAll(pl.d.Pod, c):
			causes = append(causes, c.ID)
		default:
			others = append(others, c.ID)
		}
	}
	switch {
	case waits:
	case len(others) > 0:
		pl.acts.Remove = others
	default:
		pl.acts.Remove = causes
	}
	return true
}

func (pl restarter) isEphemeral(name string) bool {
	for i := range pl.d.Pod.Spec.EphemeralContainers {
		if pl.d.Pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

// killAtOnce stops a container without hook and grace.
func (pl restarter) killAtOnce(c *Container) {
	k, begun := pl.o.Kills[c.ID]
	if !begun {
		k = Kill{Cause: CauseRestartAll, Message: "killing"}
	}
	if k.Deadline.IsZero() || pl.now.Before(k.Deadline) {
		k.Deadline = pl.now
	}
	pl.kill(c, k, true)
}
