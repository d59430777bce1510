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

// Process has the keeper create and start a process. When the keeper is lost on the way Process goes on with the next one:
// a process that was started is not started again. On error the keeper has nothing of it left.
func (l *Link) Process(ctx context.Context, req keeper.Create) (started keeper.Started, err error) {
	err = l.Do(ctx, func(kept Keeper) (err error) {
		started, err = attempt(ctx, kept, req)
		return err
	})
	if err != nil {
		return started, errors.Join(err, l.End(context.WithoutCancel(ctx), req.ID))
	}
	return started, nil
}

func attempt(ctx context.Context, kept Keeper, req keeper.Create) (keeper.Started, error) {
	step, done := runtimeservice.Step(ctx, "create the process")
	_, err := kept.Create(step, req)
	if errors.Is(err, keeper.ErrExists) { // of an attempt that was cut: nobody else has a right to this id
		var started keeper.Started
		if started, err = find(step, kept, req.ID); err != nil || started.Pid != 0 {
			done(err)
			return started, err
		}
		if err = Forget(step, kept, req.ID); err == nil {
			_, err = kept.Create(step, req)
		}
	}
	done(err)
	if err != nil {
		return keeper.Started{}, err
	}
	step, done = runtimeservice.Step(ctx, "start the process")
	started, err := kept.Start(step, req.ID)
	done(err)
	return started, err
}

// find is the start of a process that the keeper knows, zero when it has not been started.
func find(ctx context.Context, kept Keeper, id string) (keeper.Started, error) {
	listing, err := kept.List(ctx)
	if err != nil {
		return keeper.Started{}, err
	}
	for _, row := range listing.Containers {
		if row.ID == id && !row.StartedAt.IsZero() {
			return keeper.Started{Pid: row.Pid, At: row.StartedAt}, nil
		}
	}
	return keeper.Started{}, nil
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
