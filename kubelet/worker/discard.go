package worker

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Discard removes what the runtime keeps and nobody needs, for containers' layers take disk and their images count as used.
//
// Of pods that have finished that is everything: the API has their statuses; only their logs cannot be asked for any more. A static
// pod keeps its containers, for only they tell that it has finished.
//
// Of other pods it is every dead container but the newest of each name, as upstream's, which keeps one too
// (maximum-dead-containers-per-container). That one must stay: its label is what tells how often the container was restarted, and
// its exit is the last state. The one before it is in the status already. What is lost with it is how long a back-off had become
// when the kubelet is restarted during one, which upstream never knows then.
func Discard(ctx context.Context, pl *Pool) error {
	var errs []error
	over, others := discardable(pl)
	for uid, w := range over {
		errs = append(errs, discard(ctx, uid, w, removeAll))
	}
	for uid, w := range others {
		errs = append(errs, discard(ctx, uid, w, removeOlder))
	}
	return errors.Join(errs...)
}

// discardable are the workers of pods that are over and of which nothing is done any more, and those of all others that stay.
func discardable(pl *Pool) (over, others map[types.UID]*worker) {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	over, others = map[types.UID]*worker{}, map[types.UID]*worker{}
	for uid, w := range pl.workers {
		w.mu.Lock()
		switch {
		case w.removed || w.pod.DeletionTimestamp != nil: // its worker removes all of it
		case !w.static && pod.Terminal(w.status.Phase) && len(w.steps.running) == 0:
			over[uid] = w
		default:
			others[uid] = w
		}
		w.mu.Unlock()
	}
	return over, others
}

// discard removes some of what the runtime has of the pod, and has the worker look at it again.
func discard(ctx context.Context, uid types.UID, w *worker, remove func(context.Context, Runtime, []pod.Sandbox, []pod.Container) error) error {
	sandboxes, containers, err := w.cfg.Runtime.Observe(ctx, uid)
	if err == nil {
		err = remove(ctx, w.cfg.Runtime, sandboxes, containers)
	}
	w.changed()
	if err != nil {
		return fmt.Errorf("discard the containers of pod %s: %w", uid, err)
	}
	return nil
}

func removeAll(ctx context.Context, r Runtime, sandboxes []pod.Sandbox, _ []pod.Container) error {
	var errs []error
	for _, s := range sandboxes {
		errs = append(errs, r.RemoveSandbox(ctx, s.ID))
	}
	return errors.Join(errs...)
}

// removeOlder removes those that are dead and superseded by one that is dead as well.
func removeOlder(ctx context.Context, r Runtime, _ []pod.Sandbox, containers []pod.Container) error {
	var errs []error
	kept := map[string]bool{}
	for _, c := range containers { // newest first
		if c.State != pod.Exited {
			continue
		}
		if kept[c.Name] {
			errs = append(errs, r.RemoveContainer(ctx, c.ID))
		}
		kept[c.Name] = true
	}
	return errors.Join(errs...)
}
