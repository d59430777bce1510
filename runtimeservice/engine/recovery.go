package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/namespace"
	"github.com/skiff-node/skiff/runtimeservice/record"
	"github.com/skiff-node/skiff/runtimeservice/rootfs"
)

// Recover loads the records and makes them true: it takes over what lives, learns what ended, undoes what was begun
// and sweeps what belongs to nobody. It is called once, before the first request.
func (e *Engine) Recover(ctx context.Context) error {
	if _, err := e.core.link.Open(ctx); err != nil {
		return err
	}
	if err := e.load(); err != nil {
		return err
	}
	// When the keeper dies meanwhile all is done again, with the next one.
	return e.core.link.Do(ctx, func(kept link.Keeper) error {
		// What an earlier CRI server has begun there is over first, or it would be done after we have looked.
		if err := kept.TakeOver(ctx); errors.Is(err, keeper.ErrInvalid) {
			e.core.log.Warn("the keeper is too old to end the calls of an earlier CRI server", "error", err)
		} else if err != nil {
			return err
		}
		if err := e.reconcile(ctx, kept); err != nil {
			return err
		}
		if err := e.whileFollowing(ctx, e.finish); err != nil {
			return err
		}
		return e.retain(ctx)
	})
}

// whileFollowing runs fn, which may wait for the end of processes, while the keeper's events are applied. When the keeper
// is lost the end of what fn waits for is not learned any more: fn ends, and ErrLost is returned.
func (e *Engine) whileFollowing(ctx context.Context, fn func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var lost error
	var follower sync.WaitGroup
	follower.Go(func() {
		if err := e.follow(ctx); ctx.Err() == nil {
			lost = fmt.Errorf("%w while recovering: %w", keeper.ErrLost, err)
			cancel()
		}
	})
	err := fn(ctx)
	cancel()
	follower.Wait()
	if lost != nil {
		return lost
	}
	return err
}

// load reads the records. Those of an earlier boot stand for nothing any more: they are undone like torn ones, which
// the sweep does by their ids.
func (e *Engine) load() error {
	c := e.core
	anew, err := record.CheckBoot(c.recordDir(""), "sandboxes", "containers")
	if err != nil {
		return err
	}
	if anew {
		c.log.Info("the machine was started anew: all records of sandboxes and containers are discarded")
	}
	torn, err := c.boxes.Load()
	if err != nil {
		return err
	}
	more, err := c.units.Load()
	if err != nil {
		return err
	}
	maps.Copy(torn, more)
	for id, err := range torn {
		c.log.Warn("record discarded; what it stood for is swept", "id", id, "error", err)
	}
	for _, o := range c.units.All() {
		if o.Record().Phase == lifecycle.Exited {
			close(o.Ended)
		}
	}
	return nil
}

// reconcile brings the containers to what the keeper knows of them.
func (e *Engine) reconcile(ctx context.Context, kept link.Keeper) error {
	listing, err := kept.List(ctx)
	if err != nil {
		return fmt.Errorf("list the keeper's containers: %w", err)
	}
	rows := map[string]keeper.Container{}
	for _, row := range listing.Containers {
		rows[row.ID] = row
	}
	e.seen = listing.Seq
	for _, o := range e.core.units.All() {
		id := o.Record().Container.ID
		row, known := rows[id]
		delete(rows, id)
		if err := e.adopt(ctx, o, row, known); err != nil {
			return err
		}
	}
	for id := range rows {
		if o, err := e.core.boxes.Find(id); err == nil && o.Record().Pause {
			continue
		}
		e.core.log.Warn("the keeper has a container without a record: ending it", "container", id)
		if err := link.Forget(ctx, kept, id); err != nil {
			return fmt.Errorf("end container %s, which has no record: %w", id, err)
		}
	}
	return nil
}

// adopt applies one row of the keeper's table, or its absence.
func (e *Engine) adopt(ctx context.Context, o *container, row keeper.Container, known bool) error {
	switch rec := o.Record(); {
	case rec.Phase == lifecycle.Running && !known:
		// Its keeper is gone. Nobody would ever learn its end or write its log: it must not run on unseen.
		if err := e.core.cgroups.Kill(rec.Cgroup); err != nil {
			return err
		}
		return e.containers.exited(o, record.Ending{Pid: rec.Container.Pid, Exit: keeper.Exit{Code: 255, Unknown: true, At: now()}})
	case rec.Phase == lifecycle.Running && row.Exit != nil:
		return e.containers.exited(o, record.Ending{Pid: row.Pid, Exit: *row.Exit})
	case rec.Phase == lifecycle.Running || !known:
		return nil
	case !o.TryEnter():
		// An operation is under way, which knows what it does. But a start may have missed the end of what it started.
		if row.Exit != nil {
			return e.containers.exited(o, record.Ending{Pid: row.Pid, Exit: *row.Exit})
		}
		return nil
	}
	defer o.Leave()
	switch rec := o.Record(); {
	case rec.Phase == lifecycle.Created && row.State == keeper.Running:
		return e.containers.markStarted(o, row.Pid, row.StartedAt)
	case rec.Phase == lifecycle.Created && row.Exit != nil && !row.StartedAt.IsZero():
		return errors.Join(e.containers.markStarted(o, row.Pid, row.StartedAt), e.containers.exited(o, record.Ending{Pid: row.Pid, Exit: *row.Exit}))
	case rec.Phase == lifecycle.Created && row.State == keeper.Created, rec.Phase == lifecycle.Exited && row.State != keeper.Exited:
		// Killed between create and start: the client does not know whether it started, so it did not. Or the client was
		// told that it did not.
		return e.core.link.End(ctx, rec.Container.ID)
	}
	return nil
}

// finish undoes what was being made, and completes what was being removed. What cannot be finished now stays, for
// the client to remove. Its error is ErrLost, for which it is done again.
func (e *Engine) finish(ctx context.Context) error {
	c := e.core
	var lost error
	check := func(what, id string, err error) {
		if errors.Is(err, keeper.ErrLost) {
			lost = err
		} else if err != nil {
			c.log.Warn(what+" is left half removed", what, id, "error", err)
		}
	}
	for _, o := range c.units.All() {
		if rec := o.Record(); c.unfinished(rec) {
			err := e.containers.stop(ctx, o, 0)
			if err == nil {
				err = e.containers.discard(ctx, o)
			}
			check("container", rec.Container.ID, err)
		}
	}
	for _, o := range c.boxes.All() {
		rec := o.Record()
		switch rec.Phase {
		case lifecycle.Creating, lifecycle.Removing:
			check("sandbox", rec.Sandbox.ID, e.sandboxes.discard(ctx, o))
		case lifecycle.Stopping:
			check("sandbox", rec.Sandbox.ID, e.sandboxes.stop(ctx, o))
		}
	}
	return lost
}

// unfinished says whether a container was being made or removed, alone or with its sandbox.
func (c *core) unfinished(rec containerRecord) bool {
	if rec.Phase == lifecycle.Creating || rec.Phase == lifecycle.Removing {
		return true
	}
	box, err := c.boxes.Find(rec.Container.SandboxID)
	return err != nil || box.Record().Phase == lifecycle.Removing
}

// retain gives back what belongs to no record: root file systems, addresses, namespaces, directories.
func (e *Engine) retain(ctx context.Context) error {
	c := e.core
	var keys, ids []string
	known := map[string]bool{}
	for _, o := range c.units.All() {
		rec := o.Record()
		keys = append(keys, rec.Container.ID)
		known[rec.Container.ID] = true
		for n := range rec.Volumes {
			keys = append(keys, volumeKey(rec.Container.ID, n))
		}
	}
	for _, o := range c.boxes.All() {
		rec := o.Record()
		known[rec.Sandbox.ID] = true
		if rec.Phase == lifecycle.Ready {
			ids = append(ids, rec.Sandbox.ID)
		}
	}
	if err := c.sweep(known); err != nil {
		return err
	}
	if err := c.cfg.Images.Retain(ctx, keys); err != nil {
		return fmt.Errorf("give back root file systems: %w", err)
	}
	if err := c.cfg.Network.Retain(ctx, ids); err != nil {
		return fmt.Errorf("give back networks: %w", err)
	}
	return nil
}

// sweep removes the mounts, directories, namespaces and pod cgroups of unknown ids.
func (c *core) sweep(known map[string]bool) error {
	for _, parent := range []string{c.containerDir(""), c.sandboxDir(""), c.copiesDir("")} {
		if err := rootfs.Sweep(parent, known); err != nil {
			return err
		}
	}
	if c.cfg.CgroupDriver == cgroup.Cgroupfs {
		c.cgroups.Sweep(c.cfg.CgroupParent, known)
	}
	return namespace.Sweep(c.nsDir(), known)
}

// Run follows the keeper until ctx is done. When the connection breaks it connects anew, to a new keeper where
// need be, and reconciles.
func (e *Engine) Run(ctx context.Context) error {
	wait := time.Duration(0)
	for {
		began := time.Now()
		err := e.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if wait = min(wait*2+50*time.Millisecond, 5*time.Second); time.Since(began) > 10*time.Second {
			wait = 0
		}
		e.core.log.Warn("lost the keeper", "error", err, "retry", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		kept, err := e.core.link.Open(ctx)
		if err == nil {
			err = e.reconcile(ctx, kept)
		}
		if err != nil && ctx.Err() == nil {
			e.core.log.Error("the keeper is not usable", "error", err)
		}
	}
}

// Owns tells whether the process is a container's first.
func (e *Engine) Owns(pid int) bool {
	return slices.ContainsFunc(e.core.units.All(), func(o *container) bool { return o.Record().Container.Pid == pid })
}

// follow applies events as they come, from where reconcile has left off.
func (e *Engine) follow(ctx context.Context) error {
	kept, err := e.core.link.Get()
	if err != nil {
		return err
	}
	for event, err := range kept.Events(ctx, e.seen) {
		if err != nil {
			return err
		}
		e.seen = event.Seq
		if err := e.apply(event); err != nil {
			e.core.log.Warn("an event of the keeper could not be applied", "container", event.ID, "state", event.State, "error", err)
		}
	}
	return errors.New("the keeper's events have ended")
}

func (e *Engine) apply(event keeper.Event) error {
	o, err := e.core.units.Find(event.ID)
	if err != nil {
		return nil // a pause process, or a container that has been removed
	}
	// A start is told by the call that made it, or by the list: an event may be of one that was cut, and repeated.
	if event.State == keeper.Exited && event.Exit != nil {
		return e.containers.exited(o, record.Ending{Pid: event.Pid, Exit: *event.Exit})
	}
	return nil
}

// Teardown stops and removes every sandbox, and ends the keeper. The network and the images are the caller's.
func (e *Engine) Teardown(ctx context.Context) error {
	boxes, err := e.sandboxes.ListSandboxes(ctx, runtimeservice.Filter{})
	if err != nil {
		return err
	}
	var errs []error
	for _, b := range boxes {
		errs = append(errs, e.sandboxes.RemoveSandbox(ctx, b.ID))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove all sandboxes: %w", err)
	}
	if e.core.cfg.CgroupDriver == cgroup.Cgroupfs {
		e.core.cgroups.RemoveEmpty(e.core.cfg.CgroupParent, "/")
	}
	kept, err := e.core.link.Get()
	if err != nil {
		return err
	}
	e.core.link.Retire()
	return kept.Shutdown(ctx)
}
