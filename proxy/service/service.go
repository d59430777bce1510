// Package service holds the nouns of the proxy: what a Service means for packets on this node. FromAPI turns API
// objects into them and is pure.
package service

import (
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Service is one Service with everything that this node does for it.
type Service struct {
	Name       types.NamespacedName
	ClusterIPs []netip.Addr
	Ports      []Port
}

// Port is one port of a Service.
type Port struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
	NodePort uint16 // 0: none

	ClusterIPs  []netip.Addr
	ExternalIPs []netip.Addr // external and load-balancer addresses

	// Internal takes what comes to the cluster IPs, External what comes to node ports and external addresses.
	Internal, External []Endpoint
	// InternalLocal and ExternalLocal say that only endpoints of this node may take it; what finds none is dropped.
	InternalLocal, ExternalLocal bool
}

// Endpoint is one backend of a port.
type Endpoint struct {
	Addr  netip.AddrPort
	Local bool // on this node
}

// Compare orders endpoints by address.
func (e Endpoint) Compare(o Endpoint) int { return e.Addr.Compare(o.Addr) }

// Ignored says whether any proxy must leave the Service alone: it is headless, an external name, or another
// proxy's by label (https://kubernetes.io/docs/reference/labels-annotations-taints, KEP-2447).
func Ignored(s *corev1.Service) bool {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return true
	}
	_, other := s.Labels["service.kubernetes.io/service-proxy-name"]
	_, headless := s.Labels[corev1.IsHeadlessService]
	return other || headless
}

// FromAPI is what a Service and its slices mean on a node for one address family (IPv4 when v6 is false). The result
// is nil where the Service is none of ours.
func FromAPI(s *corev1.Service, slices []*discoveryv1.EndpointSlice, node string, v6 bool) *Service {
	if s == nil || Ignored(s) {
		return nil
	}
	out := &Service{Name: types.NamespacedName{Namespace: s.Namespace, Name: s.Name}, ClusterIPs: addrs(s.Spec.ClusterIPs, v6)}
	if len(s.Spec.ClusterIPs) == 0 {
		out.ClusterIPs = addrs([]string{s.Spec.ClusterIP}, v6)
	}
	external := addrs(externalIPs(s), v6)
	for _, p := range s.Spec.Ports {
		port := Port{Name: p.Name, Protocol: p.Protocol, Port: uint16(p.Port), NodePort: uint16(p.NodePort), ClusterIPs: out.ClusterIPs, ExternalIPs: external}
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		port.InternalLocal = s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
		port.ExternalLocal = s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
		all := backends(slices, p, node, v6)
		port.Internal, port.External = usable(all, port.InternalLocal), usable(all, port.ExternalLocal)
		out.Ports = append(out.Ports, port)
	}
	return out
}

func externalIPs(s *corev1.Service) []string {
	out := append([]string(nil), s.Spec.ExternalIPs...)
	for _, in := range s.Status.LoadBalancer.Ingress {
		if in.IP != "" && (in.IPMode == nil || *in.IPMode == corev1.LoadBalancerIPModeVIP) {
			out = append(out, in.IP)
		}
	}
	return out
}

func addrs(in []string, v6 bool) []netip.Addr {
	var out []netip.Addr
	for _, s := range in {
		if a, err := netip.ParseAddr(s); err == nil && a.Is6() == v6 {
			out = append(out, a)
		}
	}
	return out
}

// backend is an endpoint with the conditions that choose among endpoints.
type backend struct {
	Endpoint
	ready, serving bool
}

func backends(in []*discoveryv1.EndpointSlice, p corev1.ServicePort, node string, v6 bool) []backend {
	var out []backend
	want := discoveryv1.AddressTypeIPv4
	if v6 {
		want = discoveryv1.AddressTypeIPv6
	}
	for _, s := range in {
		if s.AddressType != want {
			continue
		}
		for _, sp := range s.Ports {
			if sp.Port == nil || name(sp.Name) != p.Name || (sp.Protocol != nil && *sp.Protocol != p.Protocol && p.Protocol != "") {
				continue
			}
			out = append(out, ofSlice(s, uint16(*sp.Port), node)...)
		}
	}
	return out
}

func name(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func ofSlice(s *discoveryv1.EndpointSlice, port uint16, node string) []backend {
	var out []backend
	for _, e := range s.Endpoints {
		if len(e.Addresses) == 0 {
			continue
		}
		a, err := netip.ParseAddr(strings.TrimSpace(e.Addresses[0]))
		if err != nil {
			continue
		}
		b := backend{Endpoint: Endpoint{Addr: netip.AddrPortFrom(a, port), Local: e.NodeName != nil && *e.NodeName == node}}
		// A missing condition means ready (discovery/v1 EndpointConditions).
		b.ready = e.Conditions.Ready == nil || *e.Conditions.Ready
		terminating := e.Conditions.Terminating != nil && *e.Conditions.Terminating
		b.serving = terminating && (e.Conditions.Serving == nil || *e.Conditions.Serving)
		out = append(out, b)
	}
	return out
}

// usable picks the ready endpoints, or where there is none those that still serve while they terminate (KEP-1669),
// each once, in order.
func usable(all []backend, localOnly bool) []Endpoint {
	pick := func(keep func(backend) bool) []Endpoint {
		var out []Endpoint
		for _, b := range all {
			if (!localOnly || b.Local) && keep(b) {
				out = append(out, b.Endpoint)
			}
		}
		slices.SortFunc(out, Endpoint.Compare)
		return slices.CompactFunc(out, func(a, b Endpoint) bool { return a.Addr == b.Addr })
	}
	if ready := pick(func(b backend) bool { return b.ready }); len(ready) > 0 {
		return ready
	}
	return pick(func(b backend) bool { return b.serving })
}
