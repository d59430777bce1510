package rules

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/service/ipallocator"
	"k8s.io/kubernetes/pkg/registry/core/service/portallocator"
	netutils "k8s.io/utils/net"
)

// allocators hand out the addresses and ports of services. What is taken is what the stored services say: the maps
// live in memory and are filled from the store before the first allocation of a process, so that a crash between an
// allocation and the write of its service loses nothing. One process writes services.
type allocators struct {
	primary   core.IPFamily
	addresses map[core.IPFamily]ipallocator.Interface
	ports     portallocator.Interface
	loader    *loader
}

func newAllocators(ranges []net.IPNet, ports utilnet.PortRange) (*allocators, error) {
	if len(ranges) == 0 {
		return nil, errors.New("no range of service addresses is given")
	}
	l := &loader{}
	a := &allocators{addresses: map[core.IPFamily]ipallocator.Interface{}, loader: l}
	for _, r := range ranges {
		m, err := ipallocator.NewInMemory(&r)
		if err != nil {
			return nil, fmt.Errorf("range of service addresses %s: %w", &r, err)
		}
		family := core.IPv4Protocol
		if netutils.IsIPv6CIDR(&r) {
			family = core.IPv6Protocol
		}
		if a.primary == "" {
			a.primary = family
		}
		a.addresses[family] = &lazyAddresses{m, l}
		l.addresses = append(l.addresses, m)
	}
	m, err := portallocator.NewInMemory(ports)
	if err != nil {
		return nil, fmt.Errorf("range of node ports %s: %w", ports, err)
	}
	l.ports = m
	a.ports = &lazyPorts{m, l}
	return a, nil
}

// loader fills the maps once.
type loader struct {
	list      func(context.Context, *internalversion.ListOptions) (runtime.Object, error)
	addresses []ipallocator.Interface
	ports     portallocator.Interface

	mu   sync.Mutex
	done bool
}

func (l *loader) load() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return nil
	}
	ctx := request.WithNamespace(context.Background(), "")
	o, err := l.list(ctx, &internalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("read the addresses of existing services: %w", err)
	}
	for _, s := range o.(*core.ServiceList).Items {
		l.mark(&s)
	}
	l.done = true
	return nil
}

// mark notes what a stored service holds. What does not fit the ranges (they may have changed) needs no note.
func (l *loader) mark(s *core.Service) {
	for _, text := range s.Spec.ClusterIPs {
		ip := netutils.ParseIPSloppy(text)
		if ip == nil {
			continue
		}
		for _, m := range l.addresses {
			_ = m.Allocate(ip)
		}
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			_ = l.ports.Allocate(int(p.NodePort))
		}
	}
	if p := s.Spec.HealthCheckNodePort; p != 0 {
		_ = l.ports.Allocate(int(p))
	}
}

// lazyAddresses waits for the loader before the first use.
type lazyAddresses struct {
	ipallocator.Interface
	l *loader
}

// Allocate implements ipallocator.Interface.
func (a *lazyAddresses) Allocate(ip net.IP) error {
	if err := a.l.load(); err != nil {
		return err
	}
	return a.Interface.Allocate(ip)
}

// AllocateNext implements ipallocator.Interface.
func (a *lazyAddresses) AllocateNext() (net.IP, error) {
	if err := a.l.load(); err != nil {
		return nil, err
	}
	return a.Interface.AllocateNext()
}

// Release implements ipallocator.Interface.
func (a *lazyAddresses) Release(ip net.IP) error {
	if err := a.l.load(); err != nil {
		return err
	}
	return a.Interface.Release(ip)
}

// DryRun implements ipallocator.Interface.
func (a *lazyAddresses) DryRun() ipallocator.Interface {
	return &lazyAddresses{a.Interface.DryRun(), a.l}
}

// lazyPorts waits for the loader before the first use.
type lazyPorts struct {
	portallocator.Interface
	l *loader
}

// Allocate implements portallocator.Interface.
func (p *lazyPorts) Allocate(port int) error {
	if err := p.l.load(); err != nil {
		return err
	}
	return p.Interface.Allocate(port)
}

// AllocateNext implements portallocator.Interface.
func (p *lazyPorts) AllocateNext() (int, error) {
	if err := p.l.load(); err != nil {
		return 0, err
	}
	return p.Interface.AllocateNext()
}

// Release implements portallocator.Interface.
func (p *lazyPorts) Release(port int) error {
	if err := p.l.load(); err != nil {
		return err
	}
	return p.Interface.Release(port)
}
