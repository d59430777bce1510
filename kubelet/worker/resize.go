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
)

// resizing is where the resources of one pod stand. The worker's mutex guards it.
type resizing struct {
	granted, actual resize.Allocation
	// pending is why what is desired is not granted.
	pending *report.Resize
	// progress is set from a grant until all containers have what was granted. Its reason tells what went wrong.
	progress *report.Resize
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

// settle forgets what containers had that do not run any more. What another kubelet has started has got what was granted,
// unless the status tells of this very instance.
func (w resizer) settle(p *v1.Pod, o *pod.Observed) {
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
		case w.first && known && !w.told(c):
			delete(w.resize.actual, c.Name)
			known = false
			fallthrough
		case !known && !o.Busy:
			w.resize.actual[c.Name] = spec.Resources
		}
	}
}

// told tells whether the API's status is about this instance of the container.
func (w resizer) told(c *pod.Container) bool {
	for _, list := range [][]v1.ContainerStatus{w.pod.Status.InitContainerStatuses, w.pod.Status.ContainerStatuses} {
		for i := range list {
			if list[i].Name == c.Name {
				return trimScheme(list[i].ContainerID) == c.ID
			}
		}
	}
	return false
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
func (w resizer) started(name string, c *v1.Container) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resize.actual[name] = c.Resources
}

// carryOut gives running containers other resources, and the pod's cgroup with them.
func (w resizer) carryOut(ctx context.Context, p *v1.Pod, list []pod.Resize) {
	list = w.open(list)
	if len(list) == 0 {
		return
	}
	done := 0
	err := w.roomy(ctx, list)
	if err == nil {
		err = w.cfg.Cgroups.ResizePod(p, func() error {
			for i := range list {
				if err := w.cfg.Runtime.UpdateContainer(ctx, p, list[i].Name, list[i].ID); err != nil {
					return err
				}
				done++
			}
			return nil
		})
	}
	w.mu.Lock()
	for _, r := range list[:done] {
		w.resize.actual[r.Name] = r.To
		w.log.Info("container resized", "container", r.Name)
	}
	w.mu.Unlock()
	if err == nil || ctx.Err() != nil {
		return
	}
	w.log.Warn("cannot resize, will be tried again", "err", err)
	w.failed(p, err)
	select {
	case <-ctx.Done():
	case <-time.After(resizePause):
	}
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
func (w resizer) roomy(ctx context.Context, list []pod.Resize) error {
	var errs []error
	for i := range list {
		to, from := list[i].To.Limits.Memory().Value(), list[i].From.Limits.Memory().Value()
		if to == 0 || (from != 0 && to >= from) {
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
// mutex is held, so that no two pods are granted the same.
func (pl *Pool) regrant(w *worker) {
	w.mu.Lock()
	p, granted, static := w.pod, w.resize.granted, w.static
	closed := w.end != nil || terminal(w.status.Phase)
	w.mu.Unlock()
	if closed || resize.Same(resize.Of(p), granted) {
		w.mu.Lock()
		w.resize.pending = nil
		w.mu.Unlock()
		return
	}
	var refusal *resize.Refusal
	if pl.cfg.Resize != nil {
		refusal = pl.cfg.Resize(p, granted, static, pl.active())
	}
	resizer{w}.answer(p, refusal)
}

// answer takes in what was decided.
func (w resizer) answer(p *v1.Pod, refusal *resize.Refusal) {
	w.mu.Lock()
	if refusal == nil {
		w.resize.granted, w.resize.pending = resize.Of(p), nil
		w.resize.progress = &report.Resize{Generation: p.Generation}
		w.mu.Unlock()
		w.cfg.Events.Normal(p, "", "ResizeStarted", "Pod resize started: %s", resize.Summary(p, p.Generation, ""))
		w.poke()
		return
	}
	now := report.Resize{Reason: refusal.Reason, Message: refusal.Message, Generation: p.Generation}
	told := w.resize.pending != nil && *w.resize.pending == now
	w.resize.pending = &now
	w.mu.Unlock()
	if told {
		return
	}
	w.cfg.Events.Warning(p, "", "Resize"+now.Reason, "Pod resize %s: %s", now.Reason, resize.Summary(p, now.Generation, now.Message))
	w.poke()
}

// retryResizes looks again at the resizes that wait, after something has been freed: those of higher priority first,
// then those of better quality of service, then the older ones.
func (pl *Pool) retryResizes() {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	var waiting []*worker
	for _, w := range pl.workers {
		w.mu.Lock()
		if w.resize.pending != nil && w.resize.pending.Reason == v1.PodReasonDeferred {
			waiting = append(waiting, w)
		}
		w.mu.Unlock()
	}
	slices.SortFunc(waiting, func(a, b *worker) int { return before(a.pod, b.pod) })
	for _, w := range waiting {
		pl.regrant(w)
	}
}

func before(a, b *v1.Pod) int {
	if x, y := priority(a), priority(b); x != y {
		return int(y) - int(x)
	}
	rank := map[v1.PodQOSClass]int{v1.PodQOSGuaranteed: 0, v1.PodQOSBurstable: 1, v1.PodQOSBestEffort: 2}
	if x, y := rank[pod.QOS(a)], rank[pod.QOS(b)]; x != y {
		return x - y
	}
	return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
}

func priority(p *v1.Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}
