package meters

import (
	"context"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
)

// ListDetails implements runtimeservice.Meters. What ends meanwhile is left out.
func (m *Meters) ListDetails(ctx context.Context) ([]runtimeservice.SandboxDetail, error) {
	_, layers, err := m.layers.FSInfo(ctx)
	if err != nil {
		return nil, err
	}
	space, err := m.machine.Space(layers.Mountpoint)
	if err != nil {
		return nil, err
	}
	units := map[string][]hooks.Unit{}
	for _, u := range m.pods.Units() {
		if u.State == runtimeservice.ContainerRunning {
			units[u.SandboxID] = append(units[u.SandboxID], u)
		}
	}
	var out []runtimeservice.SandboxDetail
	for _, p := range m.pods.Pods() {
		if p.State != runtimeservice.SandboxReady {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		d, err := m.sandboxDetail(p)
		if err == nil {
			d.Containers, err = m.containerDetails(ctx, units[p.ID], layers.Mountpoint)
		}
		if !m.ready(p.ID) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range d.Containers {
			d.Containers[i].Space = space
		}
		out = append(out, d)
	}
	return out, nil
}

func (m *Meters) sandboxDetail(p hooks.Pod) (runtimeservice.SandboxDetail, error) {
	out := runtimeservice.SandboxDetail{Sandbox: p.Sandbox, Cgroup: p.Cgroup}
	var err error
	if out.Detail, err = m.machine.Detail(p.Cgroup, time.Now()); err != nil {
		return out, err
	}
	out.Interfaces, err = interfaces(p)
	return out, err
}

func (m *Meters) containerDetails(ctx context.Context, units []hooks.Unit, mountpoint string) ([]runtimeservice.ContainerDetail, error) {
	var out []runtimeservice.ContainerDetail
	for _, u := range units {
		d := runtimeservice.ContainerDetail{Container: u.Container, Cgroup: u.Cgroup}
		var err error
		if d.Detail, err = m.machine.Detail(u.Cgroup, time.Now()); err == nil {
			d.Layer, err = m.layer(ctx, u.ID, mountpoint)
		}
		if !m.running(u.ID) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}
