package worker

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// ending is how far the worker has come with what follows the end of all containers.
type ending struct {
	cleaned bool // volumes and cgroup are gone
	deleted bool // the API has been asked to forget the pod
	retry   time.Time
}

// ended is closed once the pod is over, or has no worker any more: it holds nothing of the node.
type ended struct {
	is    chan struct{}
	once  sync.Once
	freed func() // told what others may have now; nil for nobody
}

func (e *ended) tell() { e.once.Do(func() { close(e.is) }) }

// Ended gives a channel that is closed once nothing of the pod runs any more, nothing will, and what it had has been taken back. Of a
// pod that the pool does not have it is closed already.
func Ended(pl *Pool, uid types.UID) <-chan struct{} {
	w := pl.worker(uid)
	if w == nil {
		none := make(chan struct{})
		close(none)
		return none
	}
	return w.ended.is
}

// finisher cleans up after a pod.
type finisher struct{ *worker }

// finish is what follows once everything of the pod has stopped: devices, volumes, cgroup, then, if it is being deleted, sandboxes,
// logs and at last the pod's object in the API. Each part is repeated until it succeeds; the pod stays in the API
// as long as anything of it is left here.
func (w finisher) finish(ctx context.Context, d *pod.Desired, o *pod.Observed) (again time.Time, gone bool) {
	if !w.idle() {
		return time.Time{}, false // the end of the step wakes us
	}
	if now := time.Now(); now.Before(w.ending.retry) {
		return w.ending.retry, false
	}
	if w.holds(d.Pod.UID) {
		defer traced(ctx).step().done()
		if err := w.cfg.Claims.Release(ctx, d.Pod.UID); err != nil {
			return w.later(ctx, err), false
		}
		w.poke() // now the API may be told that the pod is over
		return time.Time{}, false
	}
	if err := w.cleanUp(ctx, d.Pod); err != nil {
		return w.later(ctx, err), false
	}
	w.mu.Lock()
	removed := w.removed
	w.mu.Unlock()
	if d.Pod.DeletionTimestamp == nil && !removed {
		return time.Time{}, false // finished, but kept: its logs can be read
	}
	if err := w.forget(ctx, d.Pod, o, removed); err != nil {
		return w.later(ctx, err), false
	}
	return time.Time{}, removed
}

// holds tells whether devices are or may be ready for the pod.
func (w *worker) holds(uid types.UID) bool { return w.cfg.Claims != nil && w.cfg.Claims.Holds(uid) }

func (w finisher) later(ctx context.Context, err error) time.Time {
	traced(ctx).failed(err)
	w.log.Warn("cannot clean up after pod, will be tried again", "err", err)
	w.ending.retry = time.Now().Add(2 * afterError)
	return w.ending.retry
}

// cleanUp takes away volumes and cgroup, once.
func (w finisher) cleanUp(ctx context.Context, p *v1.Pod) error {
	if w.ending.cleaned {
		return nil
	}
	defer traced(ctx).step().done()
	if err := w.cfg.Volumes.Teardown(ctx, p.UID); err != nil {
		w.cfg.Events.Warning(p, "", "FailedUnMount", "%v", err)
		return fmt.Errorf("take down volumes: %w", err)
	}
	if err := w.cfg.Cgroups.RemovePod(ctx, p.UID); err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	if w.cfg.Unregister != nil {
		w.cfg.Unregister(p.UID)
	}
	w.ending.cleaned = true
	w.log.Info("pod has stopped")
	return nil
}

// forget removes what the runtime keeps of the pod, then the pod from the API.
func (w finisher) forget(ctx context.Context, p *v1.Pod, o *pod.Observed, removed bool) error {
	if w.ending.deleted {
		return nil
	}
	defer traced(ctx).step().done()
	for _, s := range o.Sandboxes {
		if err := w.cfg.Runtime.RemoveSandbox(ctx, s.ID); err != nil {
			return err
		}
	}
	if err := w.cfg.Runtime.RemoveLogs(p); err != nil {
		return err
	}
	if !removed && !w.static && w.cfg.Delete != nil {
		if err := w.cfg.Statuses.Flush(ctx, p.UID); err != nil {
			return fmt.Errorf("write last status: %w", err)
		}
		if err := w.cfg.Delete(ctx, p); err != nil {
			return fmt.Errorf("delete from the API: %w", err)
		}
	}
	w.ending.deleted = true
	return nil
}
