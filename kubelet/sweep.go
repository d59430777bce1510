package kubelet

import (
	"context"
	"errors"
	"time"
)

// Pauses before the sweep is tried again. What a CSI driver holds for a former pod waits for the driver, maybe for long.
const firstSweepPause, lastSweepPause = 5 * time.Second, 2 * time.Minute

// sweep waits until all sources have been read, and then ends what was left behind while no kubelet ran: pods that the
// runtime has and no source knows, and volumes and cgroups of pods that are no more. It is made once; later nothing is
// left behind.
func (k *Kubelet) sweep(ctx context.Context) error {
	select {
	case <-k.sourced:
	case <-ctx.Done():
		return nil
	}
	for pause := firstSweepPause; ; pause = min(2*pause, lastSweepPause) {
		err := k.sweepOnce(ctx)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		k.log.Warn("cannot clean up after pods deleted earlier, will be tried again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
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
	// Drivers may take their time, and pods come meanwhile: each is asked about just before it is taken for a former one.
	has := k.pool.Has
	return errors.Join(k.facts.claims.Retain(ctx, has), k.volumes.Retain(ctx, has), (*cgroups)(k).groups().Retain(ctx, has))
}
