package proxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/proxy/apply"
	"github.com/skiff-node/skiff/proxy/conntrack"
	"github.com/skiff-node/skiff/proxy/rules"
	"github.com/skiff-node/skiff/proxy/service"
)

// change is what the API says of a Service now.
type change struct {
	svc    *corev1.Service
	slices []*discoveryv1.EndpointSlice
}

// entry is what was programmed for a Service.
type entry struct {
	service *service.Service
	objects rules.Objects
	slots   rules.Slots
}

// program holds what the kernel should hold, and brings it there.
type program struct {
	applier *apply.Applier
	table   *rules.Table
	entries map[types.NamespacedName]entry
	whole   bool // the kernel's table is ours and complete
}

func newProgram(a *apply.Applier) *program {
	return &program{applier: a, table: rules.NewTable(), entries: map[types.NamespacedName]entry{}}
}

// run applies changes. After an error the next run replaces the whole table.
func (p *program) run(changes map[types.NamespacedName]change, node string) error {
	delta := rules.NewDelta()
	var stale []conntrack.Stale
	for name, c := range changes {
		old := p.entries[name]
		svc := service.FromAPI(c.svc, c.slices, node, false)
		objs, slots := rules.Compile(svc, old.slots)
		delta.Merge(p.table.Replace(name.String(), old.objects, objs))
		stale = append(stale, staleFlows(old.service, svc)...)
		p.entries[name] = entry{svc, objs, slots}
		if svc == nil {
			delete(p.entries, name)
		}
	}
	if err := p.commit(delta); err != nil {
		return err
	}
	if err := conntrack.Flush(stale); err != nil {
		slog.Warn("stale UDP flows may linger", "err", err)
	}
	return nil
}

func (p *program) commit(delta rules.Delta) error {
	if p.whole && delta.Empty() {
		return nil
	}
	if p.whole {
		err := p.applier.Update(delta)
		if err == nil {
			return nil
		}
		slog.Warn("the kernel's table is not what it should be: replace it", "err", err)
	}
	p.whole = false
	if err := p.applier.Reset(p.table.All()); err != nil {
		return fmt.Errorf("replace the rules: %w", err)
	}
	p.whole = true
	return nil
}

// staleFlows compares two states of a Service and lists the UDP ways that ended: to each endpoint that is gone, and, where
// there was none before, whatever conntrack remembers of the frontend.
func staleFlows(before, now *service.Service) []conntrack.Stale {
	var out []conntrack.Stale
	for _, p := range ports(before) {
		q := same(now, p)
		out = append(out, ended(frontends(p.ClusterIPs, p.Port), p.Internal, q.Internal)...)
		out = append(out, ended(external(p), p.External, q.External)...)
	}
	for _, q := range ports(now) {
		p := same(before, q)
		if len(p.Internal) == 0 && len(q.Internal) > 0 {
			out = append(out, all(frontends(q.ClusterIPs, q.Port))...)
		}
		if len(p.External) == 0 && len(q.External) > 0 {
			out = append(out, all(external(q))...)
		}
	}
	return out
}

func ports(s *service.Service) []service.Port {
	if s == nil {
		return nil
	}
	var out []service.Port
	for _, p := range s.Ports {
		if p.Protocol == corev1.ProtocolUDP {
			out = append(out, p)
		}
	}
	return out
}

// same is the port of s with p's number and protocol; a zero one when there is none.
func same(s *service.Service, p service.Port) service.Port {
	for _, q := range ports(s) {
		if q.Port == p.Port && q.NodePort == p.NodePort {
			return q
		}
	}
	return service.Port{}
}

func frontends(ips []netip.Addr, port uint16) []netip.AddrPort {
	var out []netip.AddrPort
	for _, ip := range ips {
		out = append(out, netip.AddrPortFrom(ip, port))
	}
	return out
}

func external(p service.Port) []netip.AddrPort {
	out := frontends(p.ExternalIPs, p.Port)
	if p.NodePort != 0 {
		out = append(out, netip.AddrPortFrom(netip.Addr{}, p.NodePort))
	}
	return out
}

func ended(fronts []netip.AddrPort, before, now []service.Endpoint) []conntrack.Stale {
	var out []conntrack.Stale
	for _, e := range before {
		if slices.ContainsFunc(now, func(n service.Endpoint) bool { return n.Addr == e.Addr }) {
			continue
		}
		for _, f := range fronts {
			out = append(out, conntrack.Stale{Frontend: f, Endpoint: e.Addr.Addr()})
		}
	}
	return out
}

func all(fronts []netip.AddrPort) []conntrack.Stale {
	var out []conntrack.Stale
	for _, f := range fronts {
		out = append(out, conntrack.Stale{Frontend: f})
	}
	return out
}
