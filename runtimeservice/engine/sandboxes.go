package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/admit"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/steps"
)

// Limits on operations whose caller may have left.
const (
	runLimit  = 4 * time.Minute // what the kubelet grants RunPodSandbox
	stopLimit = 2 * time.Minute

	settleLimit = 10 * time.Second
)

// sandboxes implements runtimeservice.Sandboxes.
type sandboxes struct {
	*core
	parts      *sandboxParts
	containers *containers
}

// RunSandbox implements runtimeservice.Sandboxes.
func (s *sandboxes) RunSandbox(ctx context.Context, c runtimeservice.SandboxConfig) (string, error) {
	if err := s.check(ctx, c); err != nil {
		return "", err
	}
	key, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("encode the request: %w", err)
	}
	s.haste.Soon()
	return s.flights.Join(ctx, "run "+string(key), runLimit, func(ctx context.Context) (string, error) {
		return s.run(ctx, c, key)
	})
}

// check refuses what cannot be, before anything is made.
func (s *sandboxes) check(ctx context.Context, c runtimeservice.SandboxConfig) error {
	if err := admit.Sandbox(c); err != nil {
		return err
	}
	if _, err := s.handlerOf(c.Handler); err != nil {
		return err
	}
	if !c.Security.Namespaces.UserPod {
		return nil
	}
	if err := s.userNamespaces(ctx); err != nil {
		return fmt.Errorf("user namespaces are %w on this node: %w", runtimeservice.ErrUnsupported, err)
	}
	return nil
}

func (s *sandboxes) run(ctx context.Context, c runtimeservice.SandboxConfig, key []byte) (string, error) {
	o, found, err := s.reserve(c, key)
	if err != nil {
		return "", err
	}
	if found {
		return o.Record().Sandbox.ID, nil
	}
	defer o.Leave()
	defer s.guests.Hold()()
	id := o.Record().Sandbox.ID
	err = s.boxes.Save(o)
	if err == nil {
		err = steps.Run(ctx, append(s.parts.steps(o), steps.Step{Name: "present it", Do: func(ctx context.Context) error {
			return s.guests.Ask(ctx, hooks.RunSandbox, s.view.PodOf(o.Record()), nil)
		}}))
	}
	if err != nil {
		return "", s.failed(o, err)
	}
	if err := s.boxes.Move(o, lifecycle.Made, func(r *sandboxRecord, _ lifecycle.Phase) { r.Sandbox.CreatedAt = now() }); err != nil {
		return "", s.failed(o, errors.Join(err, steps.Undo(context.WithoutCancel(ctx), s.parts.steps(o))))
	}
	s.log.Info("sandbox runs", o.Record().Keys(), "ips", o.Record().Sandbox.IPs)
	s.notify(runtimeservice.EventCreated, id, id)
	s.notify(runtimeservice.EventStarted, id, id)
	return id, nil
}

// failed forgets a sandbox that has been undone. One that could not be undone stays, not ready, for the client
// to remove.
func (s *sandboxes) failed(o *sandbox, err error) error {
	var stuck *steps.Stuck
	if errors.As(err, &stuck) {
		return errors.Join(err, s.boxes.Move(o, lifecycle.Fail, nil))
	}
	return errors.Join(err, s.boxes.Drop(o))
}

// reserve enters a new sandbox in the table, its gate taken; or finds the identical one that is ready.
func (s *sandboxes) reserve(c runtimeservice.SandboxConfig, key []byte) (o *sandbox, found bool, err error) {
	id := newID()
	parent := c.CgroupParent
	if parent == "" {
		parent = s.cfg.CgroupDriver.Default(s.cfg.CgroupParent, id)
	}
	if parent, err = s.cfg.CgroupDriver.Pod(parent); err != nil {
		return nil, false, fmt.Errorf("%w: config.linux.cgroup_parent: %w", runtimeservice.ErrInvalid, err)
	}
	run, err := s.handlerOf(c.Handler)
	if err != nil {
		return nil, false, err
	}
	rec := sandboxRecord{
		Sandbox: runtimeservice.Sandbox{ID: id, Config: c, CreatedAt: now()},
		Phase:   lifecycle.Creating, Cgroup: parent, CgroupMade: !s.cgroups.Exists(parent),
		Pause: c.Security.Namespaces.PID == runtimeservice.NamespacePod || run.NeedsSandbox(),
	}
	return s.boxes.Add(rec, func(other sandboxRecord) (bool, error) {
		if other.Sandbox.Config.Metadata != c.Metadata || other.Phase != lifecycle.Ready {
			return false, nil
		}
		if same, err := json.Marshal(other.Sandbox.Config); err == nil && string(same) == string(key) {
			return true, nil
		}
		return false, fmt.Errorf("sandbox %s runs with the same name, namespace, uid and attempt, but another configuration: %w",
			other.Sandbox.ID, runtimeservice.ErrExists)
	})
}

// StopSandbox implements runtimeservice.Sandboxes.
func (s *sandboxes) StopSandbox(ctx context.Context, id string) error {
	o, err := s.boxes.Find(id)
	if errors.Is(err, runtimeservice.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	id = o.Record().Sandbox.ID
	_, err = s.flights.Join(ctx, "stop "+id, stopLimit, func(ctx context.Context) (string, error) {
		if err := o.Enter(ctx); err != nil {
			return "", err
		}
		defer o.Leave()
		return "", s.stop(ctx, o)
	})
	return err
}

// stop runs with the gate taken. It keeps the directory, for the status of what was.
func (s *sandboxes) stop(ctx context.Context, o *sandbox) error {
	rec := o.Record()
	if rec.Phase != lifecycle.Ready && rec.Phase != lifecycle.Stopping {
		return nil
	}
	if err := s.boxes.Move(o, lifecycle.Stop, nil); err != nil {
		return err
	}
	group, groupCtx := errgroup.WithContext(ctx)
	for _, c := range s.view.ContainersOf(rec.Sandbox.ID) {
		group.Go(func() error {
			settle(groupCtx, c)
			return s.containers.stop(groupCtx, c, 0)
		})
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", rec.Sandbox.ID, err)
	}
	s.guests.InformHeld(ctx, hooks.StopSandbox, s.view.PodOf(rec), nil)
	if err := steps.Undo(ctx, s.parts.steps(o)[1:]); err != nil {
		return fmt.Errorf("stop sandbox %s: %w", rec.Sandbox.ID, err)
	}
	if err := s.boxes.Move(o, lifecycle.Halted, nil); err != nil {
		return err
	}
	s.log.Info("sandbox stopped", rec.Keys())
	s.notify(runtimeservice.EventStopped, rec.Sandbox.ID, rec.Sandbox.ID)
	return nil
}

// settle waits for a start that is under way: it sees that the sandbox is being stopped and takes back what it has done. Else it would
// go on making cgroups in the pod's that the client, told that the sandbox has stopped, has removed. One that hangs keeps no sandbox
// from being stopped.
func settle(ctx context.Context, c *container) {
	if c.Record().Phase != lifecycle.Created {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleLimit)
	defer cancel()
	if c.Enter(ctx) == nil {
		c.Leave()
	}
}

// RemoveSandbox implements runtimeservice.Sandboxes.
func (s *sandboxes) RemoveSandbox(ctx context.Context, id string) error {
	o, err := s.boxes.Find(id)
	if errors.Is(err, runtimeservice.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	id = o.Record().Sandbox.ID
	_, err = s.flights.Join(ctx, "remove "+id, stopLimit, func(ctx context.Context) (string, error) {
		if err := o.Enter(ctx); err != nil {
			return "", err
		}
		defer o.Leave()
		return "", s.remove(ctx, o)
	})
	return err
}

// remove runs with the gate taken.
func (s *sandboxes) remove(ctx context.Context, o *sandbox) error {
	if _, err := s.boxes.Find(o.Record().Sandbox.ID); err != nil {
		return nil // another call has removed it while we waited
	}
	if err := s.stop(ctx, o); err != nil {
		return err
	}
	rec := o.Record()
	id := rec.Sandbox.ID
	if err := s.boxes.Move(o, lifecycle.Remove, nil); err != nil {
		return err
	}
	for _, c := range s.view.ContainersOf(id) {
		if err := s.containers.RemoveContainer(ctx, c.Record().Container.ID); err != nil {
			return fmt.Errorf("remove sandbox %s: %w", id, err)
		}
	}
	s.guests.InformHeld(ctx, hooks.RemoveSandbox, s.view.PodOf(rec), nil)
	last := s.view.Event(runtimeservice.EventDeleted, id, id) // watchers know the pod by its status
	if err := s.discard(ctx, o); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	s.log.Info("sandbox removed", rec.Keys())
	s.hub.Publish(func() runtimeservice.Event { return last })
	return nil
}

// discard undoes all that a sandbox has and forgets it. Recovery uses it too.
func (s *sandboxes) discard(ctx context.Context, o *sandbox) error {
	rec := o.Record()
	if err := steps.Undo(ctx, s.parts.steps(o)); err != nil {
		return err
	}
	if rec.CgroupMade && s.cfg.CgroupDriver == cgroup.Cgroupfs {
		s.cgroups.RemoveEmpty(rec.Cgroup, s.cfg.CgroupParent)
	}
	return s.boxes.Drop(o)
}

// Sandbox implements runtimeservice.Sandboxes. One that is being made is not there yet.
func (s *sandboxes) Sandbox(_ context.Context, id string) (runtimeservice.Sandbox, error) {
	o, err := s.boxes.Find(id)
	if err != nil {
		return runtimeservice.Sandbox{}, err
	}
	if o.Record().Phase == lifecycle.Creating {
		return runtimeservice.Sandbox{}, fmt.Errorf("sandbox %q: %w", id, runtimeservice.ErrNotFound)
	}
	return o.Record().Public(), nil
}

// ListSandboxes implements runtimeservice.Sandboxes. The newest is first.
func (s *sandboxes) ListSandboxes(_ context.Context, f runtimeservice.Filter) ([]runtimeservice.Sandbox, error) {
	var out []runtimeservice.Sandbox
	for _, o := range s.boxes.All() {
		r := o.Record()
		if p := r.Public(); r.Phase != lifecycle.Creating && f.Matches(p.ID, string(p.State), p.Config.Labels) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b runtimeservice.Sandbox) int { return b.CreatedAt.Compare(a.CreatedAt) })
	return out, nil
}

// UpdateSandbox implements runtimeservice.Sandboxes: it is remembered, there is nothing else to do.
func (s *sandboxes) UpdateSandbox(ctx context.Context, id string, overhead, resources *runtimeservice.Resources) error {
	o, err := s.boxes.Find(id)
	if err != nil {
		return err
	}
	if err := o.Enter(ctx); err != nil {
		return err
	}
	defer o.Leave()
	if err := s.guests.ResizePod(ctx, s.view.PodOf(o.Record()), overhead, resources); err != nil {
		return err
	}
	err = s.boxes.Change(o, func(r *sandboxRecord) error {
		r.Sandbox.Config.Overhead, r.Sandbox.Config.Resources = overhead, resources
		return nil
	})
	if err == nil {
		s.guests.Inform(ctx, hooks.SandboxUpdated, s.view.PodOf(o.Record()), nil)
	}
	return err
}
