package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/admit"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/spec"
	"github.com/skiff-node/skiff/runtimeservice/steps"
)

// containers implements runtimeservice.Containers.
type containers struct {
	*core
	parts *containerParts
}

// CreateContainer implements runtimeservice.Containers.
func (c *containers) CreateContainer(ctx context.Context, sandboxID string, config runtimeservice.ContainerConfig) (string, error) {
	box, err := c.boxes.Find(sandboxID)
	if err != nil {
		return "", err
	}
	key, err := json.Marshal(config)
	if err != nil {
		return "", fmt.Errorf("encode the request: %w", err)
	}
	rec := box.Record()
	if rec.Phase != lifecycle.Ready {
		return "", fmt.Errorf("sandbox %s is %s: %w", rec.Sandbox.ID, rec.Phase, runtimeservice.ErrState)
	}
	if err := admit.Container(rec.Sandbox.Config, config); err != nil {
		return "", err
	}
	c.haste.Soon()
	return c.flights.Join(ctx, "create "+rec.Sandbox.ID+string(key), runLimit, func(ctx context.Context) (string, error) {
		return c.create(ctx, rec, config, key)
	})
}

func (c *containers) create(ctx context.Context, box sandboxRecord, config runtimeservice.ContainerConfig, key []byte) (string, error) {
	image, err := c.cfg.Images.Get(ctx, config.Image.Ref)
	if errors.Is(err, imageservice.ErrNotFound) {
		return "", fmt.Errorf("image %q is not on this node; pull it first: %w", config.Image.Ref, err)
	}
	if err != nil {
		return "", err
	}
	o, found, err := c.reserve(box, config, key)
	if err != nil {
		return "", err
	}
	id := o.Record().Container.ID
	if found {
		return id, nil
	}
	defer o.Leave()
	release := c.guests.Hold()
	defer release()
	o.Set(func(r *containerRecord) {
		r.Container.ImageID, r.Container.StopSignal = image.ID, spec.StopSignal(config.StopSignal, image.Config.StopSignal)
	})
	err = c.units.Save(o)
	if err == nil {
		err = steps.Run(ctx, c.parts.makeSteps(o, box, image))
	}
	if err != nil {
		c.inform(context.WithoutCancel(ctx), hooks.RemoveContainer, o)
		return "", c.failed(o, err)
	}
	if err := c.units.Move(o, lifecycle.Made, func(r *containerRecord, _ lifecycle.Phase) { r.Container.CreatedAt = now() }); err != nil {
		return "", c.failed(o, errors.Join(err, steps.Undo(context.WithoutCancel(ctx), c.parts.steps(o))))
	}
	if now, err := c.boxes.Find(box.Sandbox.ID); err != nil || now.Record().Phase == lifecycle.Removing {
		// The sandbox went away meanwhile, and its removal may not have seen this container.
		release()
		return "", errors.Join(fmt.Errorf("sandbox %s is being removed: %w", box.Sandbox.ID, runtimeservice.ErrState), c.remove(ctx, o))
	}
	c.log.Info("container created", c.view.Keys(o.Record()))
	c.notify(runtimeservice.EventCreated, id, box.Sandbox.ID)
	c.inform(ctx, hooks.ContainerCreated, o)
	return id, nil
}

// reserve enters a new container in the table, its gate taken; or finds the identical one that waits to be started.
func (c *containers) reserve(box sandboxRecord, config runtimeservice.ContainerConfig, key []byte) (o *container, found bool, err error) {
	id := newID()
	place, _ := c.cfg.CgroupDriver.Container(box.Cgroup, id)
	rec := containerRecord{
		Container: runtimeservice.Container{ID: id, SandboxID: box.Sandbox.ID, Config: config, CreatedAt: now()},
		Phase:     lifecycle.Creating, Cgroup: place,
		Volumes: len(config.ImageVolumes()),
	}
	if box.Sandbox.Config.LogDirectory != "" && config.LogPath != "" {
		rec.Container.LogPath = filepath.Join(box.Sandbox.Config.LogDirectory, config.LogPath)
	}
	return c.units.Add(rec, func(other containerRecord) (bool, error) {
		if other.Container.SandboxID != box.Sandbox.ID || other.Container.Config.Metadata != config.Metadata ||
			(other.Phase != lifecycle.Created && other.Phase != lifecycle.Running) {
			return false, nil
		}
		if same, err := json.Marshal(other.Container.Config); err == nil && other.Phase == lifecycle.Created && string(same) == string(key) {
			return true, nil
		}
		return false, fmt.Errorf("container %s has the same name and attempt in this sandbox and is %s: %w",
			other.Container.ID, other.Phase, runtimeservice.ErrExists)
	})
}

func (c *containers) failed(o *container, err error) error {
	var stuck *steps.Stuck
	if errors.As(err, &stuck) {
		return errors.Join(err, c.units.Move(o, lifecycle.Fail, nil))
	}
	return errors.Join(err, c.units.Drop(o))
}

// StartContainer implements runtimeservice.Containers.
func (c *containers) StartContainer(ctx context.Context, id string) error {
	o, err := c.units.Find(id)
	if err != nil {
		return err
	}
	id = o.Record().Container.ID
	_, err = c.flights.Join(ctx, "start "+id, runLimit, func(ctx context.Context) (string, error) {
		defer c.guests.Hold()()
		if err := o.Enter(ctx); err != nil {
			return "", err
		}
		defer o.Leave()
		return "", c.start(ctx, o)
	})
	return err
}

// start runs with the gate taken. A start that fails ends the container, so that its status says why.
func (c *containers) start(ctx context.Context, o *container) error {
	rec := o.Record()
	if rec.Phase != lifecycle.Created {
		return fmt.Errorf("container %s is %s, only a created one can be started: %w", rec.Container.ID, rec.Phase, runtimeservice.ErrState)
	}
	box, err := c.boxes.Find(rec.Container.SandboxID)
	if err != nil {
		return err
	}
	if p := box.Record().Phase; p != lifecycle.Ready {
		return fmt.Errorf("sandbox %s is %s: %w", rec.Container.SandboxID, p, runtimeservice.ErrState)
	}
	var started keeper.Started
	pod, unit := c.view.UnitOf(rec)
	if err = c.guests.Ask(ctx, hooks.StartContainer, pod, unit); err == nil {
		started, err = c.launch(ctx, rec, box.Record())
	}
	if errors.Is(err, keeper.ErrLost) {
		return fmt.Errorf("start container %s: %w", rec.Container.ID, err) // it is as it was, for the client to try again
	}
	if err != nil {
		exit := keeper.Exit{Code: startErrorCode, At: now()}
		return errors.Join(fmt.Errorf("start container %s: %w", rec.Container.ID, err),
			c.markEnded(o, exit, runtimeservice.ReasonStartError, err.Error()))
	}
	if err := c.markStarted(o, started.Pid, started.At); err != nil {
		return err
	}
	c.inform(ctx, hooks.ContainerStarted, o)
	if p := box.Record().Phase; p != lifecycle.Ready {
		// The sandbox stopped meanwhile, and may have seen this container as not running yet.
		return errors.Join(fmt.Errorf("sandbox %s is %s: %w", rec.Container.SandboxID, p, runtimeservice.ErrState), c.stop(ctx, o, 0))
	}
	return nil
}

// startErrorCode is the exit code of a container whose process could not be executed, as in other runtimes.
const startErrorCode = 128

// StopContainer implements runtimeservice.Containers.
func (c *containers) StopContainer(ctx context.Context, id string, timeout time.Duration) error {
	o, err := c.units.Find(id)
	if errors.Is(err, runtimeservice.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return c.stop(ctx, o, timeout)
}

// stop needs no gate: an earlier stop with more patience must not hold up one with less.
func (c *containers) stop(ctx context.Context, o *container, timeout time.Duration) (err error) {
	rec := o.Record()
	if rec.Phase != lifecycle.Running {
		return nil
	}
	defer func() {
		if err == nil {
			c.inform(ctx, hooks.StopContainer, o)
		}
	}()
	if timeout > 0 {
		number, err := spec.Signal(rec.Container.StopSignal)
		if err != nil {
			return err
		}
		if ended, err := c.signal(ctx, o, keeper.Kill{Signal: number}, timeout); ended || err != nil {
			return err
		}
	}
	ended, err := c.signal(ctx, o, keeper.Kill{Signal: 9, All: true}, link.KillPatience)
	if err != nil {
		return err
	}
	if !ended {
		return fmt.Errorf("container %s still runs %s after SIGKILL: %w", rec.Container.ID, link.KillPatience, runtimeservice.ErrTimeout)
	}
	return nil
}

// signal sends a signal and waits for the end.
func (c *containers) signal(ctx context.Context, o *container, k keeper.Kill, patience time.Duration) (ended bool, err error) {
	k.Target = keeper.Target{ID: o.Record().Container.ID}
	ctx, done := runtimeservice.Step(ctx, "wait for the end after signal "+strconv.Itoa(k.Signal))
	defer func() { done(err) }()
	err = c.link.Do(ctx, func(kept link.Keeper) error { return kept.Kill(ctx, k) })
	if err != nil && !errors.Is(err, keeper.ErrState) && !errors.Is(err, keeper.ErrNotFound) {
		return false, err
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-o.Ended:
		return true, nil
	case <-timer.C:
		return false, nil
	case <-ctx.Done():
		return false, fmt.Errorf("stop container %s: %w", k.ID, ctx.Err())
	}
}

// RemoveContainer implements runtimeservice.Containers.
func (c *containers) RemoveContainer(ctx context.Context, id string) error {
	o, err := c.units.Find(id)
	if errors.Is(err, runtimeservice.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	id = o.Record().Container.ID
	_, err = c.flights.Join(ctx, "remove "+id, stopLimit, func(ctx context.Context) (string, error) {
		if err := o.Enter(ctx); err != nil {
			return "", err
		}
		defer o.Leave()
		return "", c.remove(ctx, o)
	})
	return err
}

// remove runs with the gate taken.
func (c *containers) remove(ctx context.Context, o *container) error {
	rec := o.Record()
	id := rec.Container.ID
	if _, err := c.units.Find(id); err != nil {
		return nil
	}
	if err := c.stop(ctx, o, 0); err != nil {
		return err
	}
	if err := c.units.Move(o, lifecycle.Remove, nil); err != nil {
		return err
	}
	pod, unit := c.view.UnitOf(o.Record())
	c.guests.InformHeld(ctx, hooks.RemoveContainer, pod, unit)
	if err := c.discard(ctx, o); err != nil {
		return fmt.Errorf("remove container %s: %w", id, err)
	}
	c.log.Info("container removed", c.view.Keys(rec))
	c.notify(runtimeservice.EventDeleted, id, rec.Container.SandboxID)
	return nil
}

// discard undoes all that a container has and forgets it. Recovery uses it too.
func (c *containers) discard(ctx context.Context, o *container) error {
	if err := steps.Undo(ctx, c.parts.steps(o)); err != nil {
		return err
	}
	return c.units.Drop(o)
}

// Container implements runtimeservice.Containers. One that is being made is not there yet.
func (c *containers) Container(_ context.Context, id string) (runtimeservice.Container, error) {
	o, err := c.units.Find(id)
	if err != nil {
		return runtimeservice.Container{}, err
	}
	if o.Record().Phase == lifecycle.Creating {
		return runtimeservice.Container{}, fmt.Errorf("container %q: %w", id, runtimeservice.ErrNotFound)
	}
	return o.Record().Public(), nil
}

// ListContainers implements runtimeservice.Containers. The newest is first.
func (c *containers) ListContainers(_ context.Context, f runtimeservice.Filter) ([]runtimeservice.Container, error) {
	var out []runtimeservice.Container
	for _, o := range c.units.All() {
		r := o.Record()
		p := r.Public()
		if r.Phase != lifecycle.Creating && strings.HasPrefix(p.SandboxID, f.SandboxID) && f.Matches(p.ID, string(p.State), p.Config.Labels) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b runtimeservice.Container) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out, nil
}
