// Package meters measures sandboxes and containers: it joins what there is with what package stats reads of it.
package meters

import (
	"context"
	"strings"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
	"github.com/skiff-node/skiff/runtimeservice/namespace"
	"github.com/skiff-node/skiff/runtimeservice/stats"
)

// Pods is what there is at the moment.
type Pods interface {
	// Pod and Unit find one by id or unique prefix of it.
	Pod(id string) (hooks.Pod, error)
	Unit(id string) (hooks.Unit, error)
	Pods() []hooks.Pod
	Units() []hooks.Unit
}

// Layers measures writable layers.
type Layers interface {
	Usage(ctx context.Context, key string) (imageservice.Usage, error)
	FSInfo(ctx context.Context) (images, containers imageservice.FSInfo, err error)
}

// Meters implements runtimeservice.Meters.
type Meters struct {
	pods    Pods
	layers  Layers
	samples stats.Sampler
	machine stats.Machine
}

// New measures pods by the cgroups below root.
func New(pods Pods, layers Layers, root cgroup.Root) *Meters {
	return &Meters{
		pods: pods, layers: layers, samples: stats.Sampler{Root: root},
		machine: stats.Machine{Cgroups: root, Proc: "/proc", Sys: "/sys"},
	}
}

// prune forgets the samples of cgroups that are no more.
func (m *Meters) prune() {
	live := map[string]bool{}
	for _, u := range m.pods.Units() {
		live[u.Cgroup] = true
	}
	for _, p := range m.pods.Pods() {
		live[p.Cgroup] = true
	}
	m.samples.Retain(live)
}

// running says whether a container that was seen running still does.
func (m *Meters) running(id string) bool {
	u, err := m.pods.Unit(id)
	return err == nil && u.State == runtimeservice.ContainerRunning
}

func (m *Meters) ready(id string) bool {
	p, err := m.pods.Pod(id)
	return err == nil && p.State == runtimeservice.SandboxReady
}

// ContainerStats implements runtimeservice.Meters.
func (m *Meters) ContainerStats(ctx context.Context, id string) (runtimeservice.ContainerStats, error) {
	u, err := m.pods.Unit(id)
	if err != nil {
		return runtimeservice.ContainerStats{}, err
	}
	_, fs, err := m.layers.FSInfo(ctx)
	if err != nil {
		return runtimeservice.ContainerStats{}, err
	}
	return m.container(ctx, u, fs.Mountpoint)
}

func (m *Meters) container(ctx context.Context, u hooks.Unit, mountpoint string) (runtimeservice.ContainerStats, error) {
	out := runtimeservice.ContainerStats{Container: u.Container}
	var err error
	if out.Usage, err = m.samples.Measure(u.Cgroup); err != nil {
		return out, err
	}
	out.Layer, err = m.layer(ctx, u.ID, mountpoint)
	return out, err
}

func (m *Meters) layer(ctx context.Context, id, mountpoint string) (runtimeservice.LayerUsage, error) {
	layer, err := m.layers.Usage(ctx, id)
	return runtimeservice.LayerUsage{
		At: layer.Time, Mountpoint: mountpoint, Bytes: uint64(max(layer.Bytes, 0)), Inodes: uint64(max(layer.Inodes, 0)),
	}, err
}

// ListContainerStats implements runtimeservice.Meters, for the containers that run. One that ends meanwhile is left out.
func (m *Meters) ListContainerStats(ctx context.Context, f runtimeservice.Filter) ([]runtimeservice.ContainerStats, error) {
	m.prune()
	_, fs, err := m.layers.FSInfo(ctx)
	if err != nil {
		return nil, err
	}
	var out []runtimeservice.ContainerStats
	for _, u := range m.pods.Units() {
		if u.State != runtimeservice.ContainerRunning || !strings.HasPrefix(u.SandboxID, f.SandboxID) ||
			!f.Matches(u.ID, string(u.State), u.Config.Labels) {
			continue
		}
		s, err := m.container(ctx, u, fs.Mountpoint)
		if err != nil && m.running(u.ID) {
			return nil, err
		}
		if err == nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// SandboxStats implements runtimeservice.Meters.
func (m *Meters) SandboxStats(ctx context.Context, id string) (runtimeservice.SandboxStats, error) {
	p, err := m.pods.Pod(id)
	if err != nil {
		return runtimeservice.SandboxStats{}, err
	}
	out := runtimeservice.SandboxStats{Sandbox: p.Sandbox}
	if out.Usage, err = m.samples.Measure(p.Cgroup); err != nil {
		return out, err
	}
	if out.Containers, err = m.ListContainerStats(ctx, runtimeservice.Filter{SandboxID: p.ID}); err != nil {
		return out, err
	}
	out.Interfaces, err = interfaces(p)
	return out, err
}

func interfaces(p hooks.Pod) (out []runtimeservice.InterfaceUsage, err error) {
	if p.NetNS == "" || p.State != runtimeservice.SandboxReady {
		return nil, nil
	}
	err = namespace.Do(p.NetNS, func() error {
		out, err = stats.Network()
		return err
	})
	return out, err
}

// ListSandboxStats implements runtimeservice.Meters, for the sandboxes that are ready.
func (m *Meters) ListSandboxStats(ctx context.Context, f runtimeservice.Filter) ([]runtimeservice.SandboxStats, error) {
	f.State = string(runtimeservice.SandboxReady)
	var out []runtimeservice.SandboxStats
	for _, p := range m.pods.Pods() {
		if !f.Matches(p.ID, string(p.State), p.Config.Labels) {
			continue
		}
		s, err := m.SandboxStats(ctx, p.ID)
		if !m.ready(p.ID) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}
