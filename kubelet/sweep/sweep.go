// Package sweep ends what was left behind while no kubelet ran: pods that the runtime has and no source knows, and what others hold for
// pods that are no more.
//
// It is made once, when all sources have been read; later nothing is left behind. Drivers may take their time with it, and pods come
// meanwhile: each is asked about just before it is taken for a former pod.
package sweep

import (
	"context"
	"errors"
	"log/slog"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Pool holds the pods that there are; *worker.Pool is it.
type Pool interface {
	// Has tells of a pod also while it is being taken in.
	Has(uid types.UID) bool
	// Orphan ends a pod that no source has.
	Orphan(p *v1.Pod)
}

// Config of a sweep. All fields are required.
type Config struct {
	// Sourced is closed when all sources have been read.
	Sourced <-chan struct{}
	// Runtime lists the pods that the runtime has something of, as far as it takes to stop them.
	Runtime func(ctx context.Context) ([]*v1.Pod, error)
	Pool    Pool
	// Retain gives up what is held for all pods but those that there are, by has, which it asks about each when it is its turn.
	Retain []func(ctx context.Context, has func(types.UID) bool) error
	Log    *slog.Logger
}

// Pauses before the sweep is tried again. What a CSI driver holds for a former pod waits for the driver, maybe for long.
const firstPause, lastPause = 5 * time.Second, 2 * time.Minute

// Run makes the sweep, until it has succeeded or ctx ends.
func Run(ctx context.Context, cfg Config) error {
	select {
	case <-cfg.Sourced:
	case <-ctx.Done():
		return nil
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := once(ctx, cfg)
		if err == nil || ctx.Err() != nil {
			return nil
		}
		cfg.Log.Warn("cannot clean up after pods deleted earlier, will be tried again", "err", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

func once(ctx context.Context, cfg Config) error {
	found, err := cfg.Runtime(ctx)
	if err != nil {
		return err
	}
	for _, p := range found {
		if !cfg.Pool.Has(p.UID) {
			cfg.Log.Info("ending a pod that was deleted while no kubelet ran", "pod", p.Namespace+"/"+p.Name, "uid", p.UID)
			cfg.Pool.Orphan(p)
		}
	}
	var errs []error
	for _, retain := range cfg.Retain {
		errs = append(errs, retain(ctx, cfg.Pool.Has))
	}
	return errors.Join(errs...)
}
