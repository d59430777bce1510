package nri

import (
	"context"
	"fmt"
	"sync"

	nri "github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	"github.com/opencontainers/runtime-spec/specs-go"
	ocigen "github.com/opencontainers/runtime-tools/generate"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
)

// fate is how far an object has come in the eyes of plugins: each is told once that it stopped and that it is gone,
// in this order, however many calls and exits lead there.
//
//	(unknown) ─► running ─► stopped ─► (unknown)
type fate struct {
	mu    sync.Mutex // held while plugins are told
	state state
}

type state int

const (
	unknown state = iota
	running
	stopped
)

func (f *fate) set(s state) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = s
}

func (p *Plugins) fate(id string) *fate {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[id] == nil {
		p.known[id] = &fate{}
	}
	return p.known[id]
}

func (p *Plugins) forget(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.known, id)
}

// Tell implements hooks.Hooks.
func (p *Plugins) Tell(ctx context.Context, m hooks.Moment, pod hooks.Pod, unit *hooks.Unit) error {
	if unit == nil {
		return p.tellPod(ctx, m, pod)
	}
	return p.tellUnit(ctx, m, pod, *unit)
}

func (p *Plugins) tellPod(ctx context.Context, m hooks.Moment, pod hooks.Pod) error {
	f, shown := p.fate(pod.ID), toPod(pod)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch m {
	case hooks.RunSandbox:
		f.state = running
		err := p.adaptation.RunPodSandbox(ctx, &nri.RunPodSandboxRequest{Pod: shown})
		if err != nil { // some have been told of it, and must hear that it came to nothing
			_ = p.adaptation.StopPodSandbox(ctx, &nri.StopPodSandboxRequest{Pod: shown})
			_ = p.adaptation.RemovePodSandbox(ctx, &nri.RemovePodSandboxRequest{Pod: shown})
			p.forget(pod.ID)
		}
		return err
	case hooks.SandboxUpdated:
		return p.adaptation.PostUpdatePodSandbox(ctx, &nri.PostUpdatePodSandboxRequest{Pod: shown})
	case hooks.StopSandbox:
		if f.state != running {
			return nil
		}
		f.state = stopped
		return p.adaptation.StopPodSandbox(ctx, &nri.StopPodSandboxRequest{Pod: shown})
	case hooks.RemoveSandbox:
		p.forget(pod.ID)
		if f.state == unknown {
			return nil
		}
		return p.adaptation.RemovePodSandbox(ctx, &nri.RemovePodSandboxRequest{Pod: shown})
	}
	return fmt.Errorf("NRI knows no moment %q of sandboxes", m)
}

func (p *Plugins) tellUnit(ctx context.Context, m hooks.Moment, pod hooks.Pod, unit hooks.Unit) error {
	container, err := toContainer(unit, nil)
	if err != nil {
		return err
	}
	shown := toPod(pod)
	f := p.fate(unit.ID)
	f.mu.Lock()
	defer f.mu.Unlock()
	switch m {
	case hooks.ContainerCreated:
		return p.adaptation.PostCreateContainer(ctx, &nri.PostCreateContainerRequest{Pod: shown, Container: container})
	case hooks.StartContainer:
		f.state = running
		return p.adaptation.StartContainer(ctx, &nri.StartContainerRequest{Pod: shown, Container: container})
	case hooks.ContainerStarted:
		return p.adaptation.PostStartContainer(ctx, &nri.PostStartContainerRequest{Pod: shown, Container: container})
	case hooks.ContainerUpdated:
		return p.adaptation.PostUpdateContainer(ctx, &nri.PostUpdateContainerRequest{Pod: shown, Container: container})
	case hooks.StopContainer:
		return p.stopped(ctx, f, shown, container)
	case hooks.RemoveContainer:
		p.forget(unit.ID)
		if f.state == unknown {
			return nil
		}
		_ = p.stopped(ctx, f, shown, container) // an end that nobody has been told of yet
		return p.adaptation.RemoveContainer(ctx, &nri.RemoveContainerRequest{Pod: shown, Container: container})
	}
	return fmt.Errorf("NRI knows no moment %q of containers", m)
}

// stopped tells of the end of a container, once. The fate is locked.
func (p *Plugins) stopped(ctx context.Context, f *fate, pod *nri.PodSandbox, c *nri.Container) error {
	if f.state != running {
		return nil
	}
	f.state = stopped
	reply, err := p.adaptation.StopContainer(ctx, &nri.StopContainerRequest{Pod: pod, Container: c})
	if err != nil {
		return err
	}
	p.apply(ctx, reply.GetUpdate())
	return nil
}

// Adjust implements hooks.Hooks.
func (p *Plugins) Adjust(ctx context.Context, pod hooks.Pod, unit hooks.Unit, s *specs.Spec) error {
	container, err := toContainer(unit, s)
	if err != nil {
		return err
	}
	shown := toPod(pod)
	p.fate(unit.ID).set(running)
	reply, err := p.adaptation.CreateContainer(ctx, &nri.CreateContainerRequest{Pod: shown, Container: container})
	if err == nil {
		err = p.adjust(s, reply.GetAdjust())
	}
	if err != nil {
		p.undone(ctx, shown, container)
		return err
	}
	p.refuse(reply.GetEvict())
	p.apply(ctx, reply.GetUpdate())
	return nil
}

// undone tells of a container whose creation came to nothing: some plugins have been told of it.
func (p *Plugins) undone(ctx context.Context, pod *nri.PodSandbox, c *nri.Container) {
	f := p.fate(c.Id)
	f.mu.Lock()
	defer f.mu.Unlock()
	p.forget(c.Id)
	_ = p.stopped(ctx, f, pod, c)
	_ = p.adaptation.RemoveContainer(ctx, &nri.RemoveContainerRequest{Pod: pod, Container: c})
}

// adjust applies what the plugins want changed.
func (p *Plugins) adjust(s *specs.Spec, a *nri.ContainerAdjustment) error {
	if a == nil {
		return nil
	}
	inject := p.config.InjectCDI
	if inject == nil {
		inject = func(*specs.Spec, []string) error {
			return fmt.Errorf("CDI devices: %w", runtimeservice.ErrUnsupported)
		}
	}
	g := generate.SpecGenerator(&ocigen.Generator{Config: s},
		generate.WithCDIDeviceInjector(func(s *specs.Spec, devices []string) error {
			if len(devices) == 0 {
				return nil
			}
			return inject(s, devices)
		}),
		generate.WithRdtResolver(func(class string) (*specs.LinuxIntelRdt, error) {
			return &specs.LinuxIntelRdt{ClosID: class}, nil
		}),
		generate.WithBlockIOResolver(func(class string) (*specs.LinuxBlockIO, error) {
			return nil, fmt.Errorf("block I/O class %q: %w", class, runtimeservice.ErrUnsupported)
		}),
	)
	if err := g.Adjust(a); err != nil {
		return fmt.Errorf("adjust the specification: %w", err)
	}
	return nil
}

// Resize implements hooks.Hooks.
func (p *Plugins) Resize(ctx context.Context, pod hooks.Pod, unit hooks.Unit, r runtimeservice.Resources) (runtimeservice.Resources, error) {
	container, err := toContainer(unit, nil)
	if err != nil {
		return r, err
	}
	reply, err := p.adaptation.UpdateContainer(ctx, &nri.UpdateContainerRequest{
		Pod: toPod(pod), Container: container, LinuxResources: toResources(&r),
	})
	if err != nil {
		return r, err
	}
	p.refuse(reply.GetEvict())
	var others []*nri.ContainerUpdate
	for _, u := range reply.GetUpdate() {
		if u.GetContainerId() != unit.ID {
			others = append(others, u)
			continue
		}
		want, err := fromResources(u.GetLinux().GetResources())
		if err != nil {
			return r, err
		}
		want.OOMScoreAdj = r.OOMScoreAdj
		r = want
	}
	p.apply(ctx, others)
	return r, nil
}

// ResizePod implements hooks.Hooks.
func (p *Plugins) ResizePod(ctx context.Context, pod hooks.Pod, overhead, resources *runtimeservice.Resources) error {
	_, err := p.adaptation.UpdatePodSandbox(ctx, &nri.UpdatePodSandboxRequest{
		Pod: toPod(pod), OverheadLinuxResources: toResources(overhead), LinuxResources: toResources(resources),
	})
	return err
}
