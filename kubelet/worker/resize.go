package worker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/report"
	"github.com/skiff-node/skiff/kubelet/pod/resize"
	"github.com/skiff-node/skiff/kubelet/worker/record"
)

// resizing is where the resources of one pod stand. The worker's mutex guards it.
type resizing struct {
	granted, actual resize.Allocation
	// recalled are the IDs of the containers that actual tells of, as a kubelet before this one kept or reported it.
	recalled map[string]string
	// unsaved tells that granted or actual have changed since they were kept, kept that there is a record.
	unsaved, kept bool
	// pending is why what is desired is not granted, deferred since when that is because it has to wait.
	pending  *report.Resize
	deferred time.Time
	// progress is set from a grant until all containers have what was granted. Its reason tells what went wrong.
	progress *report.Resize
	// atPass is progress as it was when the pass under way took what is granted. A grant since then is for the next pass.
	atPass *report.Resize
}

// resizePause is kept before a resize that failed is tried again.
const resizePause = 5 * time.Second

// resizer carries out changes of a pod's resources.
type resizer struct{ *worker }

// see brings what is known of the containers up to date with what runs, and notes when a resize is complete.
func (w resizer) see(d *pod.Desired, o *pod.Observed) {
	w.mu.Lock()
	w.settle(d.Pod, o)
	o.Actual = maps.Clone(w.resize.actual)
	busy := pod.Resizing(d.Pod, o)
	progress := w.resize.progress
	if progress != w.resize.atPass {
		w.mu.Unlock()
		return
	}
	switch {
	case busy && progress == nil: // begun by the kubelet before this one
		w.resize.progress = &report.Resize{Generation: d.Pod.Generation}
	case !busy:
		w.resize.progress = nil
	}
	w.mu.Unlock()
	if progress != nil && !busy {
		w.cfg.Events.Normal(d.Pod, "", "ResizeCompleted", "Pod resize completed: %s", resize.Summary(d.Pod, progress.Generation, ""))
	}
}

// recall reads what a kubelet before this one has granted: from the record, and where there is none from the status.
func (w resizer) recall() {
	p, r := w.pod, &w.resize
	r.granted, r.actual = resize.FromStatus(p)
	r.recalled, r.unsaved = map[string]string{}, true
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			r.recalled[list[i].Name] = trimScheme(list[i].ContainerID)
		}
	}
	if w.cfg.Records == nil {
		return
	}
	kept, ok, err := w.cfg.Records.Load(p.UID)
	if err != nil {
		w.log.Warn("cannot read what the pod was granted, the API's status counts", "err", err)
	}
	if !ok {
		return
	}
	r.granted, r.actual, r.recalled, r.kept = resize.Of(p), resize.Allocation{}, map[string]string{}, true
	maps.Copy(r.granted, kept.Granted)
	for name, has := range kept.Actual {
		r.actual[name], r.recalled[name] = has.Resources, has.ID
	}
}

// keep writes the record when it has changed. It comes before what it tells is reported, so that no kubelet after this one
// finds less in the record than in the status. Nothing is kept of a pod of which nothing runs, or that has asked for nothing: most
// pods of some nodes, and the status says as much of them.
func (w resizer) keep(o *pod.Observed) {
	w.mu.Lock()
	nothing := len(w.resize.actual) == 0 || (w.resize.actual.Empty() && w.resize.granted.Empty() && !w.resize.kept)
	if !w.resize.unsaved || w.cfg.Records == nil || nothing {
		w.mu.Unlock()
		return
	}
	s := record.Standing{Granted: maps.Clone(w.resize.granted), Actual: map[string]record.Actual{}}
	for name, has := range w.resize.actual {
		kept := record.Actual{Resources: has}
		if c := o.Newest(name); c != nil {
			kept.ID = c.ID
		}
		s.Actual[name] = kept
	}
	w.resize.unsaved, w.resize.kept = false, true
	uid := w.pod.UID
	w.mu.Unlock()
	if err := w.cfg.Records.Save(uid, s); err != nil {
		w.log.Warn("cannot keep what the pod was granted", "err", err)
	}
}

// settle forgets what containers had that do not run any more. What another kubelet has started has got what was granted,
// unless the record or the status tells of this very instance.
func (w resizer) settle(p *v1.Pod, o *pod.Observed) {
	if _, known := w.resize.actual[resize.Whole]; !known && p.Spec.Resources != nil && len(o.Containers) > 0 {
		w.got(resize.Whole, *p.Spec.Resources)
	}
	for i := range o.Containers {
		c := &o.Containers[i]
		spec := pod.Find(p, c.Name)
		if o.Newest(c.Name) != c || spec == nil {
			continue
		}
		_, known := w.resize.actual[c.Name]
		switch {
		case c.State != pod.Running:
			delete(w.resize.actual, c.Name)
		case !w.view.made && known && w.resize.recalled[c.Name] != c.ID:
			delete(w.resize.actual, c.Name)
			known = false
			fallthrough
		case !known && !o.Busy:
			w.got(c.Name, pod.Effective(p.Spec.Resources, spec.Resources))
		}
	}
}

// got notes what a container, or the pod as a whole, has got. The worker's mutex is held.
func (w resizer) got(name string, r v1.ResourceRequirements) {
	w.resize.actual[name] = r
	w.resize.unsaved = true
}

// standing tells of the resize that waits and of the one that is carried out, as copies.
func (w resizer) standing() (pending, progress *report.Resize) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if p := w.resize.pending; p != nil {
		copied := *p
		pending = &copied
	}
	if p := w.resize.progress; p != nil {
		copied := *p
		progress = &copied
	}
	return pending, progress
}

// started notes what a new container has got.
func (w resizer) started(p *v1.Pod, name string, c *v1.Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.got(name, pod.Effective(p.Spec.Resources, c.Resources))
}

// carryOut gives running containers other resources, and the pod's cgroup with them.
func (w resizer) carryOut(ctx context.Context, p *v1.Pod, list []pod.Resize) {
	list = w.open(list)
	if len(list) == 0 {
		return
	}
	began := time.Now()
	done, err := 0, w.roomy(ctx, p, list)
	if err == nil {
		done, err = w.change(ctx, p, list)
	}
	w.cfg.Resizes.Done(time.Since(began), err)
	w.mu.Lock()
	for _, r := range list[:done] {
		w.got(r.Name, r.To)
		w.log.Info("resized", "container", r.Name)
	}
	w.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		return
	}
	traced(ctx).failed(err)
	w.log.Warn("cannot resize, will be tried again", "err", err)
	w.failed(p, err)
	select {
	case <-ctx.Done():
	case <-time.After(resizePause):
	}
}

// change tells the runtime of the pod's new resources, which it may refuse, and gives pod and containers theirs. It returns how
// many of the list have been done. The runtime is told again when that failed, for it may keep count.
func (w resizer) change(ctx context.Context, p *v1.Pod, list []pod.Resize) (done int, err error) {
	w.mu.Lock()
	had := resize.Apply(p, w.resize.actual)
	w.mu.Unlock()
	sandbox := list[0].SandboxID
	if err := w.cfg.Runtime.UpdateSandbox(ctx, had, p, sandbox); err != nil {
		return 0, err
	}
	err = w.cfg.Cgroups.ResizePod(p, func() error {
		for i := range list {
			if list[i].Name == resize.Whole {
				done++
				continue // its group is being changed around this
			}
			if err := w.cfg.Runtime.UpdateContainer(ctx, p, list[i].Name, list[i].ID); err != nil {
				return err
			}
			done++
		}
		return nil
	})
	if err != nil {
		if again := w.cfg.Runtime.UpdateSandbox(ctx, p, had, sandbox); again != nil {
			w.log.Warn("cannot tell the runtime that the pod's resources are as before", "err", again)
		}
	}
	return done, err
}

// open leaves out what has been done since it was planned.
func (w resizer) open(list []pod.Resize) []pod.Resize {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(list), func(r pod.Resize) bool {
		return equality.Semantic.DeepEqual(w.resize.actual[r.Name], r.To)
	})
}

// failed notes what went wrong with a resize, and tells it once.
func (w resizer) failed(p *v1.Pod, err error) {
	w.mu.Lock()
	now := report.Resize{Reason: v1.PodReasonError, Message: err.Error(), Generation: p.Generation}
	if old := w.resize.progress; old != nil {
		now.Generation = old.Generation
	}
	told := w.resize.progress != nil && w.resize.progress.Reason == now.Reason
	w.resize.progress = &now
	w.mu.Unlock()
	w.poke()
	if !told {
		w.cfg.Events.Warning(p, "", "ResizeError", "Pod resize error: %s", resize.Summary(p, now.Generation, now.Message))
	}
}

// roomy makes sure that no memory limit falls below what is used: the kernel would kill for it, not give back.
func (w resizer) roomy(ctx context.Context, p *v1.Pod, list []pod.Resize) error {
	var errs []error
	for i := range list {
		to, from := list[i].To.Limits.Memory().Value(), list[i].From.Limits.Memory().Value()
		if to == 0 || (from != 0 && to >= from) {
			continue
		}
		if list[i].Name == resize.Whole {
			used, err := w.cfg.Runtime.PodMemoryUsage(ctx, list[i].SandboxID)
			if err != nil {
				return fmt.Errorf("unable to read memory usage for pod %q: %w", pod.Describe(p), err)
			}
			if used >= to {
				errs = append(errs, fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", to, used))
			}
			continue
		}
		used, err := w.cfg.Runtime.MemoryUsage(ctx, list[i].ID)
		if err != nil {
			return fmt.Errorf("unable to read memory usage for container %q: %w", list[i].Name, err)
		}
		if used >= to {
			errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", list[i].Name, to, used))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("cannot decrease memory limits: %w", errors.Join(errs...))
	}
	return nil
}

// regrant looks whether the pod desires other resources than it was granted, and grants them if they fit. The pool's
// mutex is held, so that no two pods are granted the same. trigger is why it is looked.
func (pl *Pool) regrant(w *worker, trigger string) {
	w.mu.Lock()
	p, granted := w.pod, w.resize.granted
	closed := w.end != nil || pod.Terminal(w.status.Phase)
	w.mu.Unlock()
	if closed || resize.Same(resize.Of(p), granted) {
		w.mu.Lock()
		w.resize.pending = nil
		resizer{w}.resolved(map[bool]string{true: "terminated", false: "reverted"}[closed])
		w.mu.Unlock()
		return
	}
	var refusal *resize.Refusal
	if pl.cfg.Resize != nil {
		refusal = pl.cfg.Resize(p, granted, pl.active())
	}
	resizer{w}.answer(p, refusal, trigger)
}

// What makes the pool look at resizes, as upstream's metrics name it.
const (
	triggerUpdated    = "pod_updated"
	triggerAdded      = "pods_added"
	triggerRemoved    = "pods_removed"
	triggerTerminated = "pod_terminated"
)

// resolved counts what became of a resize that was deferred. The worker's mutex is held.
func (w resizer) resolved(how string) (was bool) {
	since := w.resize.deferred
	if since.IsZero() {
		return false
	}
	w.cfg.Resizes.Resolved(w.pod, how, time.Since(since))
	w.resize.deferred = time.Time{}
	return true
}

// answer takes in what was decided.
func (w resizer) answer(p *v1.Pod, refusal *resize.Refusal, trigger string) {
	w.mu.Lock()
	if refusal == nil {
		if w.resolved("accepted") {
			w.cfg.Resizes.Granted(trigger)
		}
		w.resize.granted, w.resize.pending, w.resize.unsaved = resize.Of(p), nil, true
		w.resize.progress = &report.Resize{Generation: p.Generation}
		w.mu.Unlock()
		w.cfg.Events.Normal(p, "", "ResizeStarted", "Pod resize started: %s", resize.Summary(p, p.Generation, ""))
		w.poke()
		return
	}
	now := report.Resize{Reason: refusal.Reason, Message: refusal.Message, Generation: p.Generation}
	told := w.resize.pending != nil && *w.resize.pending == now
	w.resize.pending = &now
	if now.Reason == v1.PodReasonDeferred && w.resize.deferred.IsZero() {
		w.resize.deferred = time.Now()
	}
	w.mu.Unlock()
	if told {
		return
	}
	if refusal.Reason == v1.PodReasonInfeasible {
		w.cfg.Resizes.Infeasible(refusal.Detail)
	}
	w.cfg.Events.Warning(p, "", "Resize"+now.Reason, "Pod resize %s: %s", now.Reason, resize.Summary(p, now.Generation, now.Message))
	w.poke()
}

// retryResizes looks again at the resizes that wait, after something has been freed, in the order that resize.Turn has.
func (pl *Pool) retryResizes(trigger string) {
	pl.turn.Lock()
	defer pl.turn.Unlock()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	type turn struct {
		*worker
		resize.Waiting
	}
	var waiting []turn
	for _, w := range pl.workers {
		w.mu.Lock()
		if w.resize.pending != nil && w.resize.pending.Reason == v1.PodReasonDeferred {
			waiting = append(waiting, turn{w, resize.Waiting{Pod: w.pod, Granted: w.resize.granted, Since: resizer{w}.deferredSince()}})
		}
		w.mu.Unlock()
	}
	slices.SortFunc(waiting, func(a, b turn) int { return resize.Turn(a.Waiting, b.Waiting) })
	for _, w := range waiting {
		pl.regrant(w.worker, trigger)
	}
}

// deferredSince is when the condition says that the resize was deferred: maybe by a kubelet before this one, or later than it
// began to wait, if it has been infeasible meanwhile. What conditions say is in whole seconds; within one it is known better. The
// worker's mutex is held.
func (w resizer) deferredSince() time.Time {
	since := w.resize.deferred
	for _, c := range w.status.Conditions {
		told := c.LastTransitionTime.Time
		if c.Type == v1.PodResizePending && c.Reason == v1.PodReasonDeferred && !told.IsZero() && !told.Equal(since.Truncate(time.Second)) {
			since = told
		}
	}
	return since
}
