package engine

import (
	"context"
	"path/filepath"
	"strings"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/namespace"
	"github.com/skiff-node/skiff/runtimeservice/stats"
)

// meters implements runtimeservice.Meters.
type meters struct {
	*core
	sandboxes *sandboxes
	samples   *stats.Sampler
}

// prune forgets the samples of cgroups that are no more.
func (m *meters) prune() {
	live := map[string]bool{}
	for _, o := range m.units.All() {
		live[o.Record().Cgroup] = true
	}
	for _, o := range m.boxes.All() {
		live[filepath.Join("/", o.Record().Cgroup)] = true
	}
	m.samples.Retain(live)
}

// ContainerStats implements runtimeservice.Meters.
func (m *meters) ContainerStats(ctx context.Context, id string) (runtimeservice.ContainerStats, error) {
	o, err := m.units.Find(id)
	if err != nil {
		return runtimeservice.ContainerStats{}, err
	}
	_, fs, err := m.cfg.Images.FSInfo(ctx)
	if err != nil {
		return runtimeservice.ContainerStats{}, err
	}
	return m.containerStats(ctx, o.Record(), fs.Mountpoint)
}

func (m *meters) containerStats(ctx context.Context, rec containerRecord, mountpoint string) (runtimeservice.ContainerStats, error) {
	out := runtimeservice.ContainerStats{Container: rec.public()}
	var err error
	if out.Usage, err = m.samples.Measure(rec.Cgroup); err != nil {
		return out, err
	}
	layer, err := m.cfg.Images.Usage(ctx, rec.Container.ID)
	if err != nil {
		return out, err
	}
	out.Layer = runtimeservice.LayerUsage{
		At: layer.Time, Mountpoint: mountpoint, Bytes: uint64(max(layer.Bytes, 0)), Inodes: uint64(max(layer.Inodes, 0)),
	}
	return out, nil
}

// ListContainerStats implements runtimeservice.Meters, for the containers that run. One that ends meanwhile is left out.
func (m *meters) ListContainerStats(ctx context.Context, f runtimeservice.Filter) ([]runtimeservice.ContainerStats, error) {
	m.prune()
	_, fs, err := m.cfg.Images.FSInfo(ctx)
	if err != nil {
		return nil, err
	}
	var out []runtimeservice.ContainerStats
	for _, o := range m.units.All() {
		rec := o.Record()
		c := rec.public()
		if rec.Phase != lifecycle.Running || !strings.HasPrefix(c.SandboxID, f.SandboxID) || !f.Matches(c.ID, string(c.State), c.Config.Labels) {
			continue
		}
		s, err := m.containerStats(ctx, rec, fs.Mountpoint)
		if err != nil && o.Record().Phase == lifecycle.Running {
			return nil, err
		}
		if err == nil {
			out = append(out, s)
		}
	}
	return out, nil
}

// SandboxStats implements runtimeservice.Meters.
func (m *meters) SandboxStats(ctx context.Context, id string) (runtimeservice.SandboxStats, error) {
	o, err := m.boxes.Find(id)
	if err != nil {
		return runtimeservice.SandboxStats{}, err
	}
	rec := o.Record()
	out := runtimeservice.SandboxStats{Sandbox: rec.public()}
	if out.Usage, err = m.samples.Measure(filepath.Join("/", rec.Cgroup)); err != nil {
		return out, err
	}
	if out.Containers, err = m.ListContainerStats(ctx, runtimeservice.Filter{SandboxID: rec.Sandbox.ID}); err != nil {
		return out, err
	}
	if rec.Sandbox.NetNS == "" || rec.Phase != lifecycle.Ready {
		return out, nil
	}
	err = namespace.Do(rec.Sandbox.NetNS, func() error {
		out.Interfaces, err = stats.Network()
		return err
	})
	return out, err
}

// ListSandboxStats implements runtimeservice.Meters, for the sandboxes that are ready.
func (m *meters) ListSandboxStats(ctx context.Context, f runtimeservice.Filter) ([]runtimeservice.SandboxStats, error) {
	f.State = string(runtimeservice.SandboxReady)
	boxes, err := m.sandboxes.ListSandboxes(ctx, f)
	if err != nil {
		return nil, err
	}
	var out []runtimeservice.SandboxStats
	for _, b := range boxes {
		s, err := m.SandboxStats(ctx, b.ID)
		if o, gone := m.boxes.Find(b.ID); gone != nil || o.Record().Phase != lifecycle.Ready {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}
