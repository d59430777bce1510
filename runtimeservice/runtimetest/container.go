package runtimetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
)

type fakeContainers struct{ *Fake }

func (f fakeContainers) CreateContainer(_ context.Context, sandboxID string, c runtimeservice.ContainerConfig) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.sandbox(sandboxID)
	if err != nil {
		return "", err
	}
	if s.State != runtimeservice.SandboxReady {
		return "", fmt.Errorf("sandbox %s is %s: %w", sandboxID, s.State, runtimeservice.ErrState)
	}
	id := f.id()
	f.containers[id] = &runtimeservice.Container{
		ID: id, SandboxID: sandboxID, Config: c, ImageID: c.Image.Ref, StopSignal: "SIGTERM",
		State: runtimeservice.ContainerCreated, CreatedAt: time.Now(),
	}
	f.tell(runtimeservice.EventCreated, id, sandboxID)
	return id, nil
}

func (f fakeContainers) StartContainer(_ context.Context, id string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.container(id)
	if err != nil {
		return err
	}
	if c.State != runtimeservice.ContainerCreated {
		return fmt.Errorf("container %s is %s: %w", id, c.State, runtimeservice.ErrState)
	}
	c.State, c.StartedAt, c.Pid = runtimeservice.ContainerRunning, time.Now(), f.next
	f.tell(runtimeservice.EventStarted, id, c.SandboxID)
	return nil
}

func (f fakeContainers) StopContainer(_ context.Context, id string, _ time.Duration) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c, ok := f.containers[id]; ok && c.State == runtimeservice.ContainerRunning {
		f.end(c, 143)
	}
	return nil
}

func (f fakeContainers) RemoveContainer(ctx context.Context, id string) error {
	if err := f.StopContainer(ctx, id, 0); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.containers, id)
	return nil
}

func (f fakeContainers) Container(_ context.Context, id string) (runtimeservice.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.container(id)
	if err != nil {
		return runtimeservice.Container{}, err
	}
	return *c, nil
}

func (f fakeContainers) ListContainers(_ context.Context, filter runtimeservice.Filter) ([]runtimeservice.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []runtimeservice.Container
	for _, c := range f.containers {
		if strings.HasPrefix(c.SandboxID, filter.SandboxID) && filter.Matches(c.ID, string(c.State), c.Config.Labels) {
			out = append(out, *c)
		}
	}
	slices.SortFunc(out, func(a, b runtimeservice.Container) int { return strings.Compare(b.ID, a.ID) })
	return out, nil
}

func (f fakeContainers) UpdateContainer(_ context.Context, id string, r runtimeservice.Resources) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	c, err := f.container(id)
	if err != nil {
		return err
	}
	c.Config.Resources = r
	return nil
}

func (f fakeContainers) ReopenLog(ctx context.Context, id string) error {
	return fakeProcesses(f).running(id)
}

type fakeMeters struct{ *Fake }

func (f fakeMeters) ContainerStats(ctx context.Context, id string) (runtimeservice.ContainerStats, error) {
	c, err := fakeContainers(f).Container(ctx, id)
	return runtimeservice.ContainerStats{Container: c, Usage: runtimeservice.Usage{At: time.Now()}}, err
}

func (f fakeMeters) ListContainerStats(ctx context.Context, filter runtimeservice.Filter) ([]runtimeservice.ContainerStats, error) {
	filter.State = string(runtimeservice.ContainerRunning)
	list, err := fakeContainers(f).ListContainers(ctx, filter)
	var out []runtimeservice.ContainerStats
	for _, c := range list {
		out = append(out, runtimeservice.ContainerStats{Container: c, Usage: runtimeservice.Usage{At: time.Now()}})
	}
	return out, err
}

func (f fakeMeters) SandboxStats(ctx context.Context, id string) (runtimeservice.SandboxStats, error) {
	s, err := fakeSandboxes(f).Sandbox(ctx, id)
	if err != nil {
		return runtimeservice.SandboxStats{}, err
	}
	containers, err := f.ListContainerStats(ctx, runtimeservice.Filter{SandboxID: id})
	return runtimeservice.SandboxStats{Sandbox: s, Usage: runtimeservice.Usage{At: time.Now()}, Containers: containers}, err
}

func (f fakeMeters) ListSandboxStats(ctx context.Context, filter runtimeservice.Filter) ([]runtimeservice.SandboxStats, error) {
	filter.State = string(runtimeservice.SandboxReady)
	list, err := fakeSandboxes(f).ListSandboxes(ctx, filter)
	var out []runtimeservice.SandboxStats
	for _, s := range list {
		stats, err := f.SandboxStats(ctx, s.ID)
		if err != nil {
			return nil, err
		}
		out = append(out, stats)
	}
	return out, err
}

func (f fakeMeters) ListDetails(ctx context.Context) ([]runtimeservice.SandboxDetail, error) {
	boxes, err := fakeSandboxes(f).ListSandboxes(ctx, runtimeservice.Filter{State: string(runtimeservice.SandboxReady)})
	var out []runtimeservice.SandboxDetail
	for _, s := range boxes {
		d := runtimeservice.SandboxDetail{Sandbox: s, Cgroup: "/pods/" + s.ID, Interfaces: []runtimeservice.InterfaceUsage{{Name: "eth0", RxBytes: 7}}}
		containers, err := fakeContainers(f).ListContainers(ctx, runtimeservice.Filter{SandboxID: s.ID, State: string(runtimeservice.ContainerRunning)})
		if err != nil {
			return nil, err
		}
		for _, c := range containers {
			d.Containers = append(d.Containers, runtimeservice.ContainerDetail{Container: c, Cgroup: d.Cgroup + "/" + c.ID, Detail: runtimeservice.Detail{Usage: runtimeservice.Usage{At: time.Now()}}})
		}
		out = append(out, d)
	}
	return out, err
}
