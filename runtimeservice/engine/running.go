package engine

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/admit"
	"github.com/skiff-node/skiff/runtimeservice/bundle"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/record"
	"github.com/skiff-node/skiff/runtimeservice/spec"
)

// launch has the keeper create and start the process. On error the keeper has nothing of it left.
func (c *containers) launch(ctx context.Context, rec containerRecord, box sandboxRecord) (keeper.Started, error) {
	id := rec.Container.ID
	config, err := bundle.Raw(c.containerDir(id))
	if err != nil {
		return keeper.Started{}, err
	}
	if rec.Container.LogPath != "" {
		if err := os.MkdirAll(filepath.Dir(rec.Container.LogPath), 0o755); err != nil {
			return keeper.Started{}, fmt.Errorf("make the log's directory: %w", err)
		}
	}
	run, err := c.handlerOf(box.Sandbox.Config.Handler)
	if err != nil {
		return keeper.Started{}, err
	}
	restore := ""
	if rec.Restore {
		restore = c.copiesDir(id)
	}
	defer c.haste.Start()()
	return c.link.Process(ctx, keeper.Create{
		ID: id, Restore: restore, Spec: config, Bundle: c.containerDir(id), Runtime: run.Runtime(),
		LogPath: rec.Container.LogPath, Stdin: rec.Container.Config.Stdin, StdinOnce: rec.Container.Config.StdinOnce,
		TTY: rec.Container.Config.TTY, SystemdCgroup: c.cfg.CgroupDriver == cgroup.Systemd,
	})
}

// markStarted and markEnded take what the keeper says into the record. Both may be repeated, in any order.
func (c *containers) markStarted(o *container, pid int, at time.Time) error {
	first := false
	var ended *record.Ending
	err := c.units.Move(o, lifecycle.Started, func(r *containerRecord, before lifecycle.Phase) {
		if r.Early != nil && r.Early.Pid == pid {
			ended = r.Early
		}
		r.Early = nil
		if r.Container.StartedAt.IsZero() {
			r.Container.StartedAt = at.Round(0)
		}
		if r.Phase == lifecycle.Running {
			r.Container.Pid = pid
		}
		first = before == lifecycle.Created
	})
	if err != nil || !first {
		return err
	}
	rec := o.Record().Container
	c.log.Info("container started", c.view.Keys(o.Record()), "pid", pid)
	c.notify(runtimeservice.EventStarted, rec.ID, rec.SandboxID)
	if ended != nil {
		return c.exited(o, *ended)
	}
	return nil
}

// exited takes the end of a process into the record: at once when it is known to run, else when its start is. The end of
// another process is that of a start that was cut, and repeated.
func (c *containers) exited(o *container, e record.Ending) error {
	waits := false
	o.Set(func(r *containerRecord) {
		if waits = r.Phase == lifecycle.Created; waits {
			r.Early = &e
		}
	})
	if rec := o.Record(); waits || rec.Phase == lifecycle.Running && rec.Container.Pid != e.Pid {
		return nil
	}
	reason, message := record.Reason(e.Exit)
	return c.markEnded(o, e.Exit, reason, message)
}

func (c *containers) markEnded(o *container, exit keeper.Exit, reason, message string) error {
	first := false
	err := c.units.Move(o, lifecycle.Ended, func(r *containerRecord, before lifecycle.Phase) {
		if first = r.Phase != before; !first {
			return
		}
		r.Container.FinishedAt, r.Container.ExitCode, r.Container.Pid = exit.At.Round(0), exit.Code, 0
		r.Container.Reason, r.Container.Message = reason, message
	})
	if err != nil || !first {
		return err
	}
	close(o.Ended)
	rec := o.Record().Container
	c.log.Info("container ended", c.view.Keys(o.Record()), "code", rec.ExitCode, "reason", reason)
	c.notify(runtimeservice.EventStopped, rec.ID, rec.SandboxID)
	pod, unit := c.view.UnitOf(o.Record())
	c.guests.InformLater(hooks.StopContainer, pod, unit)
	return nil
}

// UpdateContainer implements runtimeservice.Containers. The record changes only when the cgroup has.
func (c *containers) UpdateContainer(ctx context.Context, id string, r runtimeservice.Resources) error {
	o, err := c.units.Find(id)
	if err != nil {
		return err
	}
	pod, unit := c.view.UnitOf(o.Record())
	if r, err = c.guests.Resize(ctx, pod, *unit, r); err != nil {
		return err
	}
	if err := c.ApplyResources(ctx, o.Record().Container.ID, r); err != nil {
		return err
	}
	c.inform(ctx, hooks.ContainerUpdated, o)
	return nil
}

// ApplyResources is UpdateContainer without asking plugins: it may be they who want it.
func (c *core) ApplyResources(ctx context.Context, id string, r runtimeservice.Resources) error {
	o, err := c.units.Find(id)
	if err != nil {
		return err
	}
	if err := o.Enter(ctx); err != nil {
		return err
	}
	defer o.Leave()
	rec := o.Record()
	if err := admit.Resources(r); err != nil {
		return err
	}
	limits, err := spec.Resources(r, c.host)
	if err != nil {
		return err
	}
	switch rec.Phase {
	case lifecycle.Running:
		text, err := json.Marshal(limits)
		if err != nil {
			return fmt.Errorf("encode resources: %w", err)
		}
		update := keeper.Update{ID: rec.Container.ID, Resources: text}
		if err := c.link.Do(ctx, func(kept link.Keeper) error { return kept.Update(ctx, update) }); err != nil {
			return err
		}
	case lifecycle.Created:
		if err := bundle.Limit(c.containerDir(rec.Container.ID), limits); err != nil {
			return err
		}
	default:
		return fmt.Errorf("container %s is %s: %w", rec.Container.ID, rec.Phase, runtimeservice.ErrState)
	}
	return c.units.Change(o, func(rec *containerRecord) error {
		rec.Container.Config.Resources = spec.Merge(rec.Container.Config.Resources, r)
		return nil
	})
}

// ReopenLog implements runtimeservice.Containers. A container that does not run has nothing to write: the call is
// refused, and no file appears.
func (c *containers) ReopenLog(ctx context.Context, id string) error {
	o, err := c.units.Find(id)
	if err != nil {
		return err
	}
	rec := o.Record()
	if rec.Phase != lifecycle.Running {
		return fmt.Errorf("container %s is %s: %w", rec.Container.ID, rec.Phase, runtimeservice.ErrState)
	}
	return c.link.Do(ctx, func(kept link.Keeper) error { return kept.ReopenLog(ctx, rec.Container.ID) })
}
