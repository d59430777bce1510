package worker

import (
	"context"
	"errors"
	"fmt"
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
	if d.End != nil {
		w.cancel(stepResize)
	}
	for i := range a.Kills {
		w.kill(ctx, d.Pod, &a.Kills[i])
	}
	for _, id := range a.StopSandboxes {
		w.begin(ctx, stepSandbox+id, false, func(ctx context.Context) { w.attempt(ctx, "stop sandbox", w.cfg.Runtime.StopSandbox(ctx, id)) })
	}
	if a.Start != nil && len(a.StopSandboxes) == 0 {
		s := *a.Start
		w.begin(ctx, stepStart, false, func(ctx context.Context) { starter{w}.start(ctx, d.Pod, &s) })
	}
	if len(a.Resizes) > 0 {
		w.begin(ctx, stepResize, false, func(ctx context.Context) { resizer{w}.carryOut(ctx, d.Pod, a.Resizes) })
	}
	for _, id := range a.Remove {
		w.begin(ctx, stepRemove+id, false, func(ctx context.Context) { w.attempt(ctx, "remove container", w.cfg.Runtime.RemoveContainer(ctx, id)) })
	}
	for _, id := range a.RemoveSandboxes {
		w.begin(ctx, stepRemoveBox+id, false, func(ctx context.Context) { w.attempt(ctx, "remove sandbox", w.cfg.Runtime.RemoveSandbox(ctx, id)) })
	}
}

// attempt notes that a step failed which the next pass will ask for again, and keeps that from being at once.
func (w *worker) attempt(ctx context.Context, what string, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	traced(ctx).failed(fmt.Errorf("%s: %w", what, err))
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
				traced(ctx).failed(err)
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
	w.attempt(ctx, "stop container", err)
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

// retryNow makes faults that a changed object may have cured be tried again at once.
func (w *worker) retryNow() {
	w.mu.Lock()
	for name, f := range w.trouble.faults {
		if f.Reason != runtime.ErrImagePull {
			f.Retry = time.Time{}
			w.trouble.faults[name] = f
		}
	}
	w.mu.Unlock()
	w.poke()
}
