package worker

import (
	"context"
	"errors"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/runtime"
)

func trimScheme(id string) string {
	if _, rest, ok := strings.Cut(id, "://"); ok {
		return rest
	}
	return id
}

// act begins what was decided.
func (w *worker) act(ctx context.Context, d *pod.Desired, a *pod.Actions) {
	if a.Cancel {
		w.cancel(stepStart)
	}
	for i := range a.Kills {
		w.kill(ctx, d.Pod, &a.Kills[i])
	}
	for _, id := range a.StopSandboxes {
		w.begin(ctx, stepSandbox+id, false, func(ctx context.Context) { w.attempt("stop sandbox", w.cfg.Runtime.StopSandbox(ctx, id)) })
	}
	if a.Start != nil && len(a.StopSandboxes) == 0 {
		s := *a.Start
		w.begin(ctx, stepStart, false, func(ctx context.Context) { w.start(ctx, d.Pod, &s) })
	}
	for _, id := range a.Remove {
		w.begin(ctx, stepRemove+id, false, func(ctx context.Context) { w.attempt("remove container", w.cfg.Runtime.RemoveContainer(ctx, id)) })
	}
	for _, id := range a.RemoveSandboxes {
		w.begin(ctx, stepRemoveBox+id, false, func(ctx context.Context) { w.attempt("remove sandbox", w.cfg.Runtime.RemoveSandbox(ctx, id)) })
	}
}

// attempt notes that a step failed which the next pass will ask for again, and keeps that from being at once.
func (w *worker) attempt(what string, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	w.log.Warn("step failed, will be made again", "step", what, "err", err)
	time.Sleep(afterError)
}

// kill takes one step of stopping a container.
func (w *worker) kill(ctx context.Context, p *v1.Pod, k *pod.KillStep) {
	w.mu.Lock()
	w.kills[k.ID] = k.Kill
	w.mu.Unlock()
	if k.Announce {
		w.cfg.Events.Normal(p, k.Name, "Killing", "%s", k.Kill.Message)
		w.log.Info("stopping container", "container", k.Name, "id", k.ID, "why", k.Kill.Message, "deadline", k.Kill.Deadline)
	}
	if k.RunHook {
		hook := pod.Find(p, k.Name).Lifecycle.PreStop
		w.begin(ctx, stepHook+k.ID, false, func(ctx context.Context) {
			ctx, cancel := context.WithDeadline(ctx, k.Kill.Deadline)
			defer cancel()
			if err := w.cfg.Runtime.RunHook(ctx, p, k.ID, k.Name, hook); err != nil {
				w.log.Warn("preStop hook failed", "container", k.Name, "err", err)
				w.cfg.Events.Warning(p, k.Name, "FailedPreStopHook", "PreStopHook failed")
			}
			w.record(k.ID, func(r *pod.Kill) { r.Hook = pod.Over })
		})
	}
	if k.DoStop {
		w.begin(ctx, stepStop+k.ID, true, func(ctx context.Context) { w.stop(ctx, k) })
	}
}

func (w *worker) stop(ctx context.Context, k *pod.KillStep) {
	err := w.cfg.Runtime.StopContainer(ctx, k.ID, k.Grace)
	if ctx.Err() != nil {
		return // replaced by a shorter one, or the kubelet ends
	}
	w.attempt("stop container", err)
	w.record(k.ID, func(r *pod.Kill) {
		r.Stop = pod.Over
		if err != nil {
			r.Stop = pod.NotBegun
		}
	})
}

// record changes the record of a container being stopped.
func (w *worker) record(id string, change func(*pod.Kill)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	k := w.kills[id]
	change(&k)
	w.kills[id] = k
}

// start makes the pod's cgroup and volumes, its sandbox if needed, and starts containers one after the other.
func (w *worker) start(ctx context.Context, p *v1.Pod, s *pod.Start) {
	req := runtime.Request{Pod: p, SandboxID: s.SandboxID, Attempt: s.Attempt}
	if err := w.prepare(ctx, p, s, &req); err != nil {
		if ctx.Err() == nil {
			w.fault("", pod.Fault{Reason: "FailedSync", Message: err.Error()})
		}
		return
	}
	w.clearFault("")
	w.poke()
	for _, c := range s.Containers {
		if ctx.Err() != nil {
			return
		}
		req.Start = c
		w.startOne(ctx, &req)
		w.poke()
	}
}

// prepare gets everything ready that containers need.
func (w *worker) prepare(ctx context.Context, p *v1.Pod, s *pod.Start, req *runtime.Request) error {
	var err error
	if req.CgroupParent, err = w.cfg.Cgroups.EnsurePod(p); err != nil {
		w.cfg.Events.Warning(p, "", "FailedCreatePodContainer", "unable to ensure pod container exists: %v", err)
		return err
	}
	if req.Volumes, err = w.cfg.Volumes.Setup(ctx, p); err != nil {
		if ctx.Err() == nil {
			w.cfg.Events.Warning(p, "", "FailedMount", "%v", err)
		}
		return err
	}
	if s.NewSandbox {
		if s.SandboxChanged {
			w.cfg.Events.Normal(p, "", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
		}
		if req.SandboxID, err = w.cfg.Runtime.CreateSandbox(ctx, p, s.Attempt, req.CgroupParent); err != nil {
			if ctx.Err() == nil {
				w.cfg.Events.Warning(p, "", "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
			}
			return err
		}
	}
	if p.Spec.HostNetwork {
		return nil
	}
	req.IPs, err = w.cfg.Runtime.SandboxIPs(ctx, req.SandboxID)
	return err
}

func (w *worker) startOne(ctx context.Context, req *runtime.Request) {
	name := req.Start.Name
	began := time.Now()
	err := w.cfg.Runtime.StartContainer(ctx, req)
	w.mu.Lock()
	if req.Start.Crash.Delay > 0 {
		w.crashes[name] = req.Start.Crash
	}
	w.mu.Unlock()
	if err == nil {
		w.clearFault(name)
		w.log.Info("started container", "container", name, "took", time.Since(began).Round(time.Millisecond))
		return
	}
	if ctx.Err() != nil {
		return
	}
	w.log.Warn("cannot start container", "container", name, "err", err)
	f := pod.Fault{Reason: "RunContainerError", Message: err.Error()}
	var fault *runtime.Fault
	if errors.As(err, &fault) {
		f.Reason, f.Message = fault.Reason, fault.Message
	}
	w.fault(name, f)
	if fault != nil && fault.Started != "" {
		w.cfg.Events.Normal(req.Pod, name, "Killing", "FailedPostStartHook")
		deadline := time.Now().Add(pod.Grace(req.Pod, name, pod.CausePostStart))
		w.record(fault.Started, func(k *pod.Kill) {
			*k = pod.Kill{Cause: pod.CausePostStart, Message: "FailedPostStartHook", Deadline: deadline, Hook: pod.Over}
		})
	}
}

// Back-off after faults: pulls as upstream's, everything else short, since it costs little to look again.
const (
	pullFirst, pullMost   = 10 * time.Second, 5 * time.Minute
	faultFirst, faultMost = 500 * time.Millisecond, 10 * time.Second
)

// fault notes why a container (or, with an empty name, the pod) could not be started, and when to try again.
func (w *worker) fault(name string, f pod.Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first, most := faultFirst, faultMost
	if f.Reason == runtime.ErrImagePull {
		first, most = pullFirst, pullMost
	}
	w.delays[name] = min(max(2*w.delays[name], first), most)
	f.At = time.Now()
	f.Retry = f.At.Add(w.delays[name])
	w.faults[name] = f
	if name == "" {
		w.log.Warn("cannot prepare pod", "err", f.Message)
	}
}

func (w *worker) clearFault(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.faults, name)
	delete(w.delays, name)
}

// retryNow makes faults that a changed object may have cured be tried again at once.
func (w *worker) retryNow() {
	w.mu.Lock()
	for name, f := range w.faults {
		if f.Reason != runtime.ErrImagePull {
			f.Retry = time.Time{}
			w.faults[name] = f
		}
	}
	w.mu.Unlock()
	w.poke()
}
