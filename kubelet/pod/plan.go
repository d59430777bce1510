package pod

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// Plan decides what to do now about one pod.
func Plan(d Desired, o Observed, now time.Time) Actions {
	pl := planner{d: d, o: &o, now: now}
	pl.acts.Waiting = map[string]Fault{}
	if d.End != nil {
		pl.end()
	} else {
		pl.run()
	}
	pl.tidy()
	return pl.acts
}

// planner holds one decision in the making.
type planner struct {
	d    Desired
	o    *Observed
	now  time.Time
	acts Actions
	// starts collects what to start, in order.
	starts []ContainerStart
	// held counts main containers that run, wait for a back-off or are to be started: while there is one, the pod has work.
	held int
}

// again asks for another look at t.
func (pl *planner) again(t time.Time) {
	if pl.acts.Again.IsZero() || t.Before(pl.acts.Again) {
		pl.acts.Again = t
	}
}

// run is the plan of a pod that shall run.
func (pl *planner) run() {
	if at := ActiveDeadline(pl.d.Pod); !at.IsZero() {
		pl.again(at)
	}
	if (restarter{pl}).step() {
		return
	}
	attempt, why := NeedsSandbox(pl.d.Pod, pl.o)
	if why != "" {
		pl.renew(attempt)
	} else {
		pl.keep()
		resizePlanner{pl}.whole()
	}
	if pl.acts.Start != nil {
		pl.acts.Start.Containers = pl.starts
	} else if len(pl.starts) > 0 {
		pl.acts.Start = &Start{Attempt: attempt, SandboxID: pl.o.Sandboxes[0].ID, Containers: pl.starts}
	}
	if f := pl.o.Faults[""]; pl.acts.Start != nil && pl.now.Before(f.Retry) {
		pl.again(f.Retry)
		pl.acts.Start = nil
	}
	if pl.o.Busy || pl.acts.Finished {
		pl.acts.Start = nil
	}
}

// renew replaces the sandbox, or makes the first one.
func (pl *planner) renew(attempt uint32) {
	p := pl.d.Pod
	if !pl.runsAgain(attempt) {
		pl.acts.Finished = true
		return
	}
	if pl.stopAll(CauseUnknown, nil) {
		return
	}
	for _, s := range pl.o.Sandboxes {
		if s.Ready {
			pl.acts.StopSandboxes = append(pl.acts.StopSandboxes, s.ID)
		}
	}
	pl.acts.Start = &Start{NewSandbox: true, Attempt: attempt, SandboxChanged: len(pl.o.Sandboxes) > 0}
	if len(p.Spec.InitContainers) > 0 {
		pl.start(&p.Spec.InitContainers[0])
		return
	}
	for i := range p.Spec.Containers {
		if c := &p.Spec.Containers[i]; !pl.succeededForGood(c) {
			pl.start(c)
		}
	}
}

// runsAgain tells whether a pod that needs a sandbox still has work to do in it.
func (pl *planner) runsAgain(attempt uint32) bool {
	p := pl.d.Pod
	if p.Spec.RestartPolicy == v1.RestartPolicyNever && attempt != 0 && len(pl.o.Containers) > 0 {
		return false
	}
	if !MainCreated(p, pl.o) {
		return true
	}
	for i := range p.Spec.Containers {
		if !pl.succeededForGood(&p.Spec.Containers[i]) {
			return true
		}
	}
	return false
}

// succeededForGood tells whether the container has done its work under OnFailure.
func (pl *planner) succeededForGood(c *v1.Container) bool {
	once := pl.d.Pod.Spec.RestartPolicy == v1.RestartPolicyOnFailure
	if c.RestartPolicy != nil {
		once = *c.RestartPolicy == v1.ContainerRestartPolicyOnFailure
	}
	last := pl.o.Newest(c.Name)
	return once && last != nil && last.State == Exited && last.ExitCode == 0
}

// keep looks after the containers of a sandbox that serves.
func (pl *planner) keep() {
	p := pl.d.Pod
	for i := range p.Spec.EphemeralContainers {
		pl.ephemeral(&p.Spec.EphemeralContainers[i])
	}
	ephemerals := pl.starts
	if !pl.inits() {
		return
	}
	for i := range p.Spec.Containers {
		pl.main(&p.Spec.Containers[i])
	}
	if pl.held == 0 {
		pl.acts.Finished = true
		pl.starts = ephemerals[:0]
	}
}

// ephemeral starts an ephemeral container once; it is never started again.
func (pl *planner) ephemeral(e *v1.EphemeralContainer) {
	if pl.o.Newest(e.Name) != nil {
		return
	}
	target := ""
	if e.TargetContainerName != "" {
		t := pl.o.Newest(e.TargetContainerName)
		if t == nil || t.State != Running {
			pl.acts.Waiting[e.Name] = Fault{Reason: "CreateContainerConfigError",
				Message: fmt.Sprintf("unable to find target container %s", e.TargetContainerName), At: pl.now}
			return
		}
		target = t.ID
	}
	n := len(pl.starts)
	pl.start((*v1.Container)(&e.EphemeralContainerCommon))
	if len(pl.starts) > n {
		pl.starts[n].Target = target
	}
}

// main looks after one main container of an initialised pod.
func (pl *planner) main(c *v1.Container) {
	last := pl.o.Newest(c.Name)
	if last == nil || last.State != Running {
		if WantsStart(pl.d.Pod, c, pl.o) {
			pl.held++
			pl.startOver(c, last)
		}
		return
	}
	pl.held++
	if k, killing := pl.o.Kills[last.ID]; killing {
		pl.kill(last, k, true)
		return
	}
	again := restartsAfterKill(&pl.d.Pod.Spec, c)
	probes := pl.o.Probes[last.ID]
	switch {
	case last.Hash != 0 && last.Hash != Hash(c):
		pl.killOne(last, CauseChanged, fmt.Sprintf("Container %s definition changed", c.Name), true)
	case failing(c, probes) && !again && onlyOne(pl.d.Pod, pl.o, c):
		pl.kill(last, Kill{Message: "Stopping container " + c.Name}, true)
	case c.LivenessProbe != nil && probes.Liveness == Failure:
		pl.killOne(last, CauseLiveness, fmt.Sprintf("Container %s failed liveness probe", c.Name), again)
	case c.StartupProbe != nil && probes.Startup == Failure:
		pl.killOne(last, CauseStartup, fmt.Sprintf("Container %s failed startup probe", c.Name), again)
	default:
		resizePlanner{pl}.container(c, last)
	}
}

// failing tells whether the container has to be stopped because of its probes.
func failing(c *v1.Container, probes Probes) bool {
	return (c.LivenessProbe != nil && probes.Liveness == Failure) || (c.StartupProbe != nil && probes.Startup == Failure)
}

// onlyOne tells whether no other main container of the pod runs on or comes again: with c the whole pod stops, in the pod's
// own time, and whatever the probe's.
func onlyOne(p *v1.Pod, o *Observed, c *v1.Container) bool {
	for i := range p.Spec.Containers {
		other := &p.Spec.Containers[i]
		if other.Name == c.Name {
			continue
		}
		last := o.Newest(other.Name)
		if last == nil || last.State != Running {
			if WantsStart(p, other, o) {
				return false
			}
			continue
		}
		stops := failing(other, o.Probes[last.ID]) || o.Kills[last.ID].Message != ""
		if !stops || restartsAfterKill(&p.Spec, other) {
			return false
		}
	}
	return true
}

// startOver starts a container. If it is not known whether its last instance still runs, that is stopped first.
func (pl *planner) startOver(c *v1.Container, last *Container) {
	if last == nil || last.State != Unknown || pl.o.Kills[last.ID].Stop == Over {
		pl.start(c)
		return
	}
	k, begun := pl.o.Kills[last.ID]
	if !begun {
		k = Kill{Cause: CauseUnknown, Restart: true, Message: "Container is in \"unknown\" state, try killing it before restart"}
	}
	pl.kill(last, k, true)
}

// killOne begins to stop one container of a pod that goes on.
func (pl *planner) killOne(c *Container, cause Cause, message string, restart bool) {
	if restart {
		message += ", will be restarted"
	}
	pl.kill(c, Kill{Cause: cause, Message: message, Restart: restart}, true)
}

// start lists a container to be started, unless it has to wait for a back-off.
func (pl *planner) start(c *v1.Container) {
	if f, ok := pl.o.Faults[c.Name]; ok {
		pl.acts.Waiting[c.Name] = pl.presented(f, c)
		if pl.now.Before(f.Retry) {
			pl.again(f.Retry)
			return
		}
	}
	st := ContainerStart{Name: c.Name, Spec: c, Restarts: -1}
	last := pl.o.Newest(c.Name)
	if last != nil {
		st.Restarts = last.Restarts + 1
	}
	if last != nil && last.State == Exited {
		limit := pl.o.maxBackoff()
		crash, known := pl.o.Crashes[c.Name]
		if !known {
			crash, known = pl.o.recalled(c, last, limit)
		}
		if crash.Of != crashOf(c) || last.FinishedAt.Sub(crash.At) > 2*limit {
			known = false
		}
		if until := last.FinishedAt.Add(crash.Delay); known && pl.now.Before(until) {
			pl.crashLoop(c, crash, until)
			return
		}
		st.Crash = nextCrash(crash, known, limit, pl.now)
		st.Crash.Of = crashOf(c)
	}
	pl.starts = append(pl.starts, st)
}

// pullBackoffAfter is how long ErrImagePull is shown before it turns into ImagePullBackOff.
const pullBackoffAfter = 3 * time.Second

// presented is the fault as the status shows it: a failed pull turns into a back-off after a moment.
func (pl *planner) presented(f Fault, c *v1.Container) Fault {
	if f.Reason != "ErrImagePull" || !pl.now.Before(f.Retry) {
		return f
	}
	if turn := f.At.Add(pullBackoffAfter); pl.now.Before(turn) {
		pl.again(turn)
		return f
	}
	f.Message = fmt.Sprintf("Back-off pulling image %q: %s: %s", c.Image, f.Reason, f.Message)
	f.Reason = "ImagePullBackOff"
	return f
}

const (
	firstBackoff   = 10 * time.Second
	defaultBackoff = 5 * time.Minute
)

func (o *Observed) maxBackoff() time.Duration {
	if o.MaxBackoff > 0 {
		return o.MaxBackoff
	}
	return defaultBackoff
}

// recalled works out the back-off that a kubelet before this one kept, from how long it left between the last two
// instances.
func (o *Observed) recalled(c *v1.Container, last *Container, limit time.Duration) (Crash, bool) {
	if last.Hash != 0 && last.Hash != Hash(c) {
		return Crash{}, false
	}
	for i := range o.Containers {
		before := &o.Containers[i]
		if before.Name != last.Name || before.Restarts >= last.Restarts || before.State != Exited {
			continue
		}
		kept := Crash{Delay: min(firstBackoff, limit), At: last.CreatedAt, Of: crashOf(c)}
		for gap := last.CreatedAt.Sub(before.FinishedAt); kept.Delay < limit && kept.Delay <= gap; {
			kept.Delay = min(2*kept.Delay, limit)
		}
		return kept, true
	}
	return Crash{}, false
}

// crashOf names what a back-off is about: what the user may change to cure the container.
func crashOf(c *v1.Container) string { return c.Image + "/" + c.Resources.String() }

// nextCrash is the back-off after one more restart: 10 s, doubled each time, until limit.
func nextCrash(crash Crash, known bool, limit time.Duration, now time.Time) Crash {
	if !known {
		return Crash{Delay: min(firstBackoff, limit), At: now}
	}
	return Crash{Delay: min(2*crash.Delay, limit), At: now}
}

func (pl *planner) crashLoop(c *v1.Container, crash Crash, until time.Time) {
	pl.again(until)
	pl.acts.Waiting[c.Name] = Fault{
		Reason:  "CrashLoopBackOff",
		Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", crash.Delay, c.Name, Describe(pl.d.Pod)),
		At:      pl.now, Retry: until,
	}
}

// tidy lists dead containers and sandboxes that no status needs: of each name the two newest containers are kept (the
// state and the last state), of the sandboxes the newest and those with a container that is kept.
func (pl *planner) tidy() {
	if len(pl.acts.Remove) > 0 {
		return // all of them go, see restarter
	}
	kept := map[string]int{}
	used := map[string]bool{}
	for _, c := range pl.o.Containers {
		if kept[c.Name]++; kept[c.Name] > 2 && c.State != Running {
			pl.acts.Remove = append(pl.acts.Remove, c.ID)
			continue
		}
		used[c.SandboxID] = true
	}
	for i, s := range pl.o.Sandboxes {
		if i > 0 && !s.Ready && !used[s.ID] && !pl.o.Busy {
			pl.acts.RemoveSandboxes = append(pl.acts.RemoveSandboxes, s.ID)
		}
	}
}
