package worker

import (
	"context"
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/runtime"
	"github.com/skiff-node/skiff/kubelet/volume"
)

// starter starts a pod's sandbox and containers. It runs beside the worker, as one step.
type starter struct{ *worker }

// start makes the pod's cgroup and volumes, its sandbox if needed, and starts containers one after the other.
func (w starter) start(ctx context.Context, p *v1.Pod, s *pod.Start) {
	req := runtime.Request{Pod: p, SandboxID: s.SandboxID, Attempt: s.Attempt}
	if err := w.prepare(ctx, p, s, &req); err != nil {
		if ctx.Err() == nil {
			traced(ctx).failed(err)
			w.fault("", pod.Fault{Reason: "FailedSync", Message: err.Error()})
		}
		return
	}
	w.clearFault("")
	w.changed()
	for _, c := range s.Containers {
		if ctx.Err() != nil {
			return
		}
		req.Start = c
		w.startOne(ctx, &req)
		w.changed()
	}
}

// prepare gets everything ready that containers need.
func (w starter) prepare(ctx context.Context, p *v1.Pod, s *pod.Start, req *runtime.Request) error {
	var err error
	if req.CgroupParent, err = w.cfg.Cgroups.EnsurePod(p); err != nil {
		w.cfg.Events.Warning(p, "", "FailedCreatePodContainer", "unable to ensure pod container exists: %v", err)
		return err
	}
	if req.Volumes, err = w.cfg.Volumes.Setup(ctx, p); err != nil {
		for _, f := range volume.Failures(err) {
			if ctx.Err() == nil {
				w.cfg.Events.Warning(p, "", f.Reason, "%s", f.Message)
			}
		}
		return err
	}
	if s.NewSandbox {
		if s.SandboxChanged {
			w.cfg.Events.Normal(p, "", "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
		}
		if err := w.devices(ctx, p); err != nil {
			return err
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

// devices makes the devices ready that the pod has by resource claims. A runtime may want them with the sandbox already.
func (w starter) devices(ctx context.Context, p *v1.Pod) error {
	if w.cfg.Claims == nil {
		return nil
	}
	err := w.cfg.Claims.Prepare(ctx, p)
	if err != nil && ctx.Err() == nil {
		w.cfg.Events.Warning(p, "", "FailedPrepareDynamicResources", "Failed to prepare dynamic resources: %v", err)
	}
	return err
}

func (w starter) startOne(ctx context.Context, req *runtime.Request) {
	name := req.Start.Name
	began := time.Now()
	if l := req.Start.Spec.Lifecycle; l != nil && l.PostStart != nil {
		w.hook(name)
		defer w.hook("")
	}
	err := w.cfg.Runtime.StartContainer(ctx, req)
	w.mu.Lock()
	if req.Start.Crash.Delay > 0 {
		w.trouble.crashes[name] = req.Start.Crash
	}
	w.mu.Unlock()
	if err == nil {
		resizer{w.worker}.started(req.Pod, name, req.Start.Spec)
		w.clearFault(name)
		w.log.Info("started container", "container", name, "took", time.Since(began).Round(time.Millisecond))
		return
	}
	if ctx.Err() != nil {
		return
	}
	traced(ctx).failed(err)
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
			*k = pod.Kill{Cause: pod.CausePostStart, Message: "FailedPostStartHook", Deadline: deadline}
		})
	}
}

// hook notes which container's postStart hook may run; none when name is empty.
func (w starter) hook(name string) {
	w.mu.Lock()
	w.trouble.hooking = name
	w.mu.Unlock()
}

// Back-off after faults: pulls as upstream's, everything else short, since it costs little to look again.
const (
	pullFirst, pullMost   = 10 * time.Second, 5 * time.Minute
	faultFirst, faultMost = 500 * time.Millisecond, 10 * time.Second
)

// fault notes why a container (or, with an empty name, the pod) could not be started, and when to try again.
func (w starter) fault(name string, f pod.Fault) {
	w.mu.Lock()
	defer w.mu.Unlock()
	first, most := faultFirst, faultMost
	if f.Reason == runtime.ErrImagePull {
		first, most = pullFirst, pullMost
	}
	w.trouble.delays[name] = min(max(2*w.trouble.delays[name], first), most)
	f.At = time.Now()
	f.Retry = f.At.Add(w.trouble.delays[name])
	w.trouble.faults[name] = f
	if name == "" {
		w.log.Warn("cannot prepare pod", "err", f.Message)
	}
}

func (w starter) clearFault(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.trouble.faults, name)
	delete(w.trouble.delays, name)
}
