package worker

import (
	"errors"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/pod"
)

// Census tells of each pod how far it is in its life, for metrics.
func (pl *Pool) Census() []metrics.Count {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	list := make([]metrics.Count, 0, len(pl.workers))
	for _, w := range pl.workers {
		w.mu.Lock()
		over := pod.Terminal(w.status.Phase)
		c := metrics.Count{Static: w.static, Lifecycle: "sync", Config: "desired", Ephemeral: len(w.pod.Spec.EphemeralContainers),
			Active: !over && (w.end == nil || !w.end.Rejected)}
		switch {
		case over:
			c.Lifecycle = "terminated"
		case w.end != nil:
			c.Lifecycle = "terminating"
		}
		if w.removed {
			c.Config = "orphan"
		}
		w.mu.Unlock()
		list = append(list, c)
	}
	return list
}

// ResizeCensus tells where the resizes of the pods stand, for metrics.
func (pl *Pool) ResizeCensus() []metrics.Standing {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	var list []metrics.Standing
	for _, w := range pl.workers {
		w.mu.Lock()
		s := metrics.Standing{Pod: w.pod, InProgress: w.resize.progress != nil}
		if p := w.resize.pending; p != nil {
			s.Pending = map[bool]string{true: "deferred", false: "infeasible"}[p.Reason == v1.PodReasonDeferred]
		}
		w.mu.Unlock()
		list = append(list, s)
	}
	return list
}

// Running are the IDs of the containers that run, as last seen.
func Running(pl *Pool) []string {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	var ids []string
	for _, w := range pl.workers {
		w.mu.Lock()
		for _, c := range slices.Concat(w.status.InitContainerStatuses, w.status.ContainerStatuses, w.status.EphemeralContainerStatuses) {
			if c.State.Running != nil {
				ids = append(ids, trimScheme(c.ContainerID))
			}
		}
		w.mu.Unlock()
	}
	return ids
}

// patience is how long the pool may be busy, and stallPause how often it is looked meanwhile.
const patience, stallPause = 10 * time.Second, 50 * time.Millisecond

// Healthy says that nobody looks after the pods any more: for ten seconds nobody could look at the pool. No work is done while
// it is locked, so this is a fault of the kubelet's own.
func Healthy(pl *Pool) error {
	for began := time.Now(); time.Since(began) < patience; time.Sleep(stallPause) {
		if pl.mu.TryLock() {
			pl.mu.Unlock()
			return nil
		}
	}
	return errors.New("sync Loop took longer than expected")
}
