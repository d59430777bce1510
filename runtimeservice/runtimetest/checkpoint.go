package runtimetest

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
)

// fakeCheckpoints keeps checkpoints in memory, by their paths.
type fakeCheckpoints struct{ f *Fake }

// running finds a container that can be checkpointed.
func (c fakeCheckpoints) running(ctx context.Context, id string) (runtimeservice.Container, error) {
	found, err := fakeContainers{c.f}.Container(ctx, id)
	if err == nil && found.State != runtimeservice.ContainerRunning {
		err = fmt.Errorf("container %s is %s: %w", id, found.State, runtimeservice.ErrState)
	}
	return found, err
}

// CheckpointContainer implements runtimeservice.Checkpoints.
func (c fakeCheckpoints) CheckpointContainer(ctx context.Context, id, location string, _ time.Duration) error {
	if !filepath.IsAbs(location) {
		return fmt.Errorf("%w: location: %q is not an absolute path", runtimeservice.ErrInvalid, location)
	}
	_, err := c.running(ctx, id)
	return err
}

// CheckpointSandbox implements runtimeservice.Checkpoints.
func (c fakeCheckpoints) CheckpointSandbox(ctx context.Context, r runtimeservice.SandboxCheckpoint) error {
	if len(r.ContainerIDs) == 0 {
		return fmt.Errorf("%w: container_ids: is empty", runtimeservice.ErrInvalid)
	}
	names := map[string]bool{}
	for _, id := range r.ContainerIDs {
		found, err := c.running(ctx, id)
		if err != nil {
			return err
		}
		names[found.Config.Metadata.Name] = true
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	c.f.checkpoints[r.Path] = names
	return nil
}

// RestoreSandbox implements runtimeservice.Checkpoints.
func (c fakeCheckpoints) RestoreSandbox(ctx context.Context, r runtimeservice.SandboxRestore) (runtimeservice.Restored, error) {
	c.f.mu.Lock()
	names := c.f.checkpoints[r.Path]
	c.f.mu.Unlock()
	if len(names) == 0 || len(names) != len(r.Containers) {
		return runtimeservice.Restored{}, fmt.Errorf("%w: checkpoint_path: no checkpoint of these containers", runtimeservice.ErrInvalid)
	}
	box, err := fakeSandboxes{c.f}.RunSandbox(ctx, r.Config)
	if err != nil {
		return runtimeservice.Restored{}, err
	}
	out := runtimeservice.Restored{SandboxID: box, Containers: map[string]string{}}
	for _, config := range r.Containers {
		if out.Containers[config.Metadata.Name], err = (fakeContainers{c.f}).CreateContainer(ctx, box, config); err != nil {
			return runtimeservice.Restored{}, err
		}
	}
	return out, nil
}
