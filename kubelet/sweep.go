package kubelet

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// sweepPause is kept before the sweep is tried again.
const sweepPause = 5 * time.Second

// sweep waits until all sources have been read, and then ends what was left behind while no kubelet ran: pods that the
// runtime has and no source knows, and volumes and cgroups of pods that are no more. It is made once; later nothing is
// left behind.
func (k *Kubelet) sweep(ctx context.Context) error {
	select {
	case <-k.sourced:
	case <-ctx.Done():
		return nil
	}
	for {
		err := k.sweepOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		k.log.Warn("cannot clean up after pods deleted earlier, will be tried again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(sweepPause):
		}
	}
}

func (k *Kubelet) sweepOnce(ctx context.Context) error {
	found, err := k.runtime.Pods(ctx)
	if err != nil {
		return err
	}
	for uid, p := range found {
		if !k.pool.Has(uid) {
			k.log.Info("ending a pod that was deleted while no kubelet ran", "pod", p.Namespace+"/"+p.Name, "uid", uid)
			k.pool.Orphan(p.Rebuilt)
		}
	}
	var live []types.UID
	for _, p := range k.pool.Pods() {
		live = append(live, p.UID)
	}
	if err := k.volumes.Retain(ctx, live); err != nil {
		return err
	}
	return k.cgroups.Load().Retain(ctx, live)
}
