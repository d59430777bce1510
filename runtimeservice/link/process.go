package link

import (
	"context"
	"errors"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// KillPatience is how long a killed process may take to be gone.
const KillPatience = 90 * time.Second

// Process has the keeper create and start a process. When the keeper is lost on the way it begins anew with the next one:
// who is told of no start need not care that there may have been one. On error the keeper has nothing of it left.
func (l *Link) Process(ctx context.Context, req keeper.Create) (started keeper.Started, err error) {
	err = l.Do(ctx, func(kept Keeper) error {
		step, done := runtimeservice.Step(ctx, "create the process")
		_, err := kept.Create(step, req)
		if errors.Is(err, keeper.ErrExists) { // a start that was cut has left it: we hold the only right to this id
			if err = Forget(ctx, kept, req.ID); err == nil {
				_, err = kept.Create(step, req)
			}
		}
		done(err)
		if err != nil {
			return err
		}
		step, done = runtimeservice.Step(ctx, "start the process")
		started, err = kept.Start(step, req.ID)
		done(err)
		return err
	})
	if err != nil {
		return started, errors.Join(err, l.End(context.WithoutCancel(ctx), req.ID))
	}
	return started, nil
}

// End makes the keeper forget a process, killing it where it lives. Ending what is gone succeeds.
func (l *Link) End(ctx context.Context, id string) error {
	return l.Do(ctx, func(kept Keeper) error { return Forget(ctx, kept, id) })
}

// Forget is End with a given keeper.
func Forget(ctx context.Context, kept Keeper, id string) error {
	err := kept.Delete(ctx, id)
	if errors.Is(err, keeper.ErrState) {
		err = killAndDelete(ctx, kept, id)
	}
	if errors.Is(err, keeper.ErrNotFound) {
		return nil
	}
	return err
}

func killAndDelete(ctx context.Context, kept Keeper, id string) error {
	target := keeper.Target{ID: id}
	if err := kept.Kill(ctx, keeper.Kill{Target: target, Signal: 9, All: true}); err != nil && !errors.Is(err, keeper.ErrState) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, KillPatience)
	defer cancel()
	if _, err := kept.Wait(ctx, target); err != nil {
		return err
	}
	return kept.Delete(ctx, id)
}
