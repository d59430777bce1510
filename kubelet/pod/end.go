package pod

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

// Terminal tells whether a pod in that phase has ended: it never leaves it.
func Terminal(p v1.PodPhase) bool { return p == v1.PodFailed || p == v1.PodSucceeded }

// minimumGrace is given to every container, however little time is left, so that a process is not killed before it has
// seen its signal.
const minimumGrace = 2 * time.Second

// end is the plan of a pod that stops: main containers at once, sidecars after them in reverse order, then the
// sandboxes. A preStop hook runs at once in every container; only the signal waits for its turn.
func (pl *planner) end() {
	pl.acts.Cancel = pl.o.Busy
	running := pl.stopAll("", pl.d.End)
	if running || pl.o.Busy {
		return
	}
	for _, s := range pl.o.Sandboxes {
		if s.Ready {
			pl.acts.StopSandboxes = append(pl.acts.StopSandboxes, s.ID)
		}
	}
	pl.acts.Done = len(pl.acts.StopSandboxes) == 0
}

// stopAll stops whatever runs of the pod, each container in its turn, and tells whether anything does. By an end it is over at its deadline
// at the latest.
func (pl *planner) stopAll(cause Cause, by *End) bool {
	running := pl.o.runningByName()
	for i := range pl.o.Containers {
		c := &pl.o.Containers[i]
		if !pl.o.Alive(c) {
			continue
		}
		k, begun := pl.o.Kills[c.ID]
		if !begun {
			k = Kill{Cause: cause, Message: "Stopping container " + c.Name}
		}
		if by != nil && (k.Deadline.IsZero() || by.Deadline.Before(k.Deadline)) {
			k.Deadline = by.Deadline
		}
		pl.kill(c, k, pl.turn(c.Name, running))
	}
	return len(running) > 0
}

// Alive tells whether a process of the container may exist. One in state unknown counts until the runtime has stopped it.
func (o *Observed) Alive(c *Container) bool {
	return c.State == Running || (c.State == Unknown && o.Kills[c.ID].Stop != Over)
}

func (o *Observed) runningByName() map[string]bool {
	running := map[string]bool{}
	for i := range o.Containers {
		if o.Alive(&o.Containers[i]) {
			running[o.Containers[i].Name] = true
		}
	}
	return running
}

// turn tells whether the container may be signalled now: a sidecar waits for the main containers and for the sidecars
// that were started after it.
func (pl *planner) turn(name string, running map[string]bool) bool {
	spec := &pl.d.Pod.Spec
	at := -1
	for i := range spec.InitContainers {
		if c := &spec.InitContainers[i]; c.Name == name && Sidecar(c) {
			at = i
		}
	}
	if at < 0 {
		return true
	}
	for i := range spec.Containers {
		if running[spec.Containers[i].Name] {
			return false
		}
	}
	for i := at + 1; i < len(spec.InitContainers); i++ {
		if running[spec.InitContainers[i].Name] {
			return false
		}
	}
	return true
}

// kill takes the next step of stopping c, if there is one to take now: announce, preStop hook, stop call. k is the record
// so far, or a new one without a deadline.
func (pl *planner) kill(c *Container, k Kill, turn bool) {
	old, begun := pl.o.Kills[c.ID]
	step := KillStep{ID: c.ID, Name: c.Name, Announce: !begun}
	if k.Deadline.IsZero() {
		k.Deadline = pl.now.Add(Grace(pl.d.Pod, c.Name, k.Cause))
	}
	left := k.Deadline.Sub(pl.now)
	if k.Hook == NotBegun {
		k.Hook = Over
		if hasPreStop(pl.d.Pod, c.Name) && left > 0 && k.Cause != CauseRestartAll {
			k.Hook, step.RunHook = Underway, true
		}
	}
	if k.Hook == Underway && left <= 0 {
		k.Hook = Over
	}
	if k.Hook == Over && (turn || left <= 0) {
		pl.stop(&k, &step, left)
	}
	if k.Hook == Underway || k.Stop == NotBegun {
		pl.again(k.Deadline)
	}
	step.Kill = k
	if !begun || k != old {
		pl.acts.Kills = append(pl.acts.Kills, step)
	}
}

// stop begins the runtime's stop call, or makes it again with less time when the deadline has moved closer.
func (pl *planner) stop(k *Kill, step *KillStep, left time.Duration) {
	grace := max(left, minimumGrace)
	sooner := k.StopDeadline.Sub(pl.now)-grace > time.Second
	if k.Stop == NotBegun || (k.Stop == Underway && sooner) {
		k.Stop = Underway
		k.StopDeadline = pl.now.Add(grace)
		step.DoStop, step.Grace = true, grace
	}
}

func hasPreStop(p *v1.Pod, name string) bool {
	c := Find(p, name)
	return c != nil && c.Lifecycle != nil && c.Lifecycle.PreStop != nil
}

const defaultGrace = 30 * time.Second

// Grace is the time a container gets to stop: the probe's own, if a probe is the cause and has one, else the deletion's,
// else the pod's.
func Grace(p *v1.Pod, name string, cause Cause) time.Duration {
	if c := Find(p, name); c != nil {
		if s := probeGrace(c, cause); s != nil {
			return time.Duration(*s) * time.Second
		}
	}
	switch {
	case p.DeletionGracePeriodSeconds != nil:
		return time.Duration(*p.DeletionGracePeriodSeconds) * time.Second
	case p.Spec.TerminationGracePeriodSeconds != nil:
		return time.Duration(*p.Spec.TerminationGracePeriodSeconds) * time.Second
	}
	return defaultGrace
}

func probeGrace(c *v1.Container, cause Cause) *int64 {
	if cause == CauseLiveness && c.LivenessProbe != nil {
		return c.LivenessProbe.TerminationGracePeriodSeconds
	}
	if cause == CauseStartup && c.StartupProbe != nil {
		return c.StartupProbe.TerminationGracePeriodSeconds
	}
	return nil
}

// Ends tells whether and how the pod must end now, given what is desired and the status just made. It returns the End to
// use from now on: nil while the pod runs, else the given one or a new one, never with a later deadline.
func Ends(d Desired, st *v1.PodStatus, finished bool, now time.Time) *End {
	next := wanted(d, st, finished, now)
	if d.End == nil || next == nil {
		if next == nil {
			return d.End
		}
		return next
	}
	end := *d.End
	if next.Deadline.Before(end.Deadline) {
		end.Deadline = next.Deadline
	}
	return &end
}

func wanted(d Desired, st *v1.PodStatus, finished bool, now time.Time) *End {
	p := d.Pod
	deadline := now.Add(Grace(p, "", ""))
	if p.DeletionTimestamp != nil {
		return deletion(d, now)
	}
	terminal := Terminal(p.Status.Phase)
	if d.End != nil {
		return nil
	}
	if past(p, now) {
		return &End{Deadline: deadline, Phase: v1.PodFailed, Reason: ReasonDeadline,
			Message: "Pod was active on the node longer than the specified deadline"}
	}
	if finished || (terminal && !d.Static) || (st != nil && Terminal(st.Phase)) {
		return &End{Deadline: deadline}
	}
	return nil
}

// deletion is the end that a delete asks for. Its grace counts from when it is first seen, since the API server's clock
// may differ; a later delete with less grace counts from when that is seen.
func deletion(d Desired, now time.Time) *End {
	return &End{Deadline: now.Add(Grace(d.Pod, "", ""))}
}

// ReasonDeadline is the reason of a pod that ran longer than its activeDeadlineSeconds.
const ReasonDeadline = "DeadlineExceeded"

// past tells whether activeDeadlineSeconds is over, counted from the pod's start on this node.
func past(p *v1.Pod, now time.Time) bool {
	at := ActiveDeadline(p)
	return !at.IsZero() && !now.Before(at)
}

// ActiveDeadline is when activeDeadlineSeconds runs out; zero when the pod has none or has not started.
func ActiveDeadline(p *v1.Pod) time.Time {
	if p.Spec.ActiveDeadlineSeconds == nil || p.Status.StartTime == nil {
		return time.Time{}
	}
	return p.Status.StartTime.Add(time.Duration(*p.Spec.ActiveDeadlineSeconds) * time.Second)
}
