package worker

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Discard removes what the runtime keeps of pods that have finished: their layers take disk, and their images count as used. The API
// has their statuses; only their logs cannot be asked for any more. A static pod keeps its containers, for only they tell that it has
// finished, and so does a pod that is not over: what has become of its containers is needed to go on.
func Discard(ctx context.Context, pl *Pool) error {
	var errs []error
	for uid, w := range finished(pl) {
		sandboxes, _, err := pl.cfg.Runtime.Observe(ctx, uid)
		for _, s := range sandboxes {
			err = errors.Join(err, pl.cfg.Runtime.RemoveSandbox(ctx, s.ID))
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("discard the containers of pod %s: %w", uid, err))
		}
		w.changed()
	}
	return errors.Join(errs...)
}

// finished are the workers of pods that are over and of which nothing is done any more.
func finished(pl *Pool) map[types.UID]*worker {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	out := map[types.UID]*worker{}
	for uid, w := range pl.workers {
		w.mu.Lock()
		if !w.static && !w.removed && w.pod.DeletionTimestamp == nil && pod.Terminal(w.status.Phase) && len(w.steps.running) == 0 {
			out[uid] = w
		}
		w.mu.Unlock()
	}
	return out
}
