// Package rules turns Services into the elements of a fixed nftables layout. It is pure: no kernel, no clock.
//
// The rule set itself never changes with Services. Two verdict maps say which small chain takes a packet, by the
// number of endpoints, and one map per door says which endpoint is in which slot:
//
//	services    daddr . proto . dport          → goto lb-<n>    | goto xlb-<n>  (with masquerade)
//	nodeports           proto . dport          → goto np-<n>    | goto npl-<n>  (externalTrafficPolicy Local)
//	endpoints   daddr . proto . dport . slot   → addr . port        read by lb-<n> and xlb-<n>
//	nodeslots           proto . dport . slot   → addr . port        read by np-<n> and npl-<n>
//	cluster-ips daddr                             known cluster IPs: what nobody rewrote is rejected
//	dropped     daddr . proto . dport             Local traffic policy without a local endpoint
//	hairpins    saddr . daddr                     a pod that reaches itself through a Service is masqueraded
//
// Chain lb-<n> is one rule: dnat to (daddr . proto . dport . numgen random mod n) looked up in endpoints. So a change
// of a Service is a change of a few elements, and its cost does not depend on how many Services there are.
package rules

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/proxy/service"
)

// Map names a map or set of the layout.
type Map string

// The maps and sets.
const (
	Services   Map = "services"
	NodePorts  Map = "nodeports"
	Endpoints  Map = "endpoints"
	NodeSlots  Map = "nodeslots"
	ClusterIPs Map = "cluster-ips"
	Dropped    Map = "dropped"
	Hairpins   Map = "hairpins"
)

// Key is one element's place. Bytes is the key as the kernel has it: fields of a concatenation padded to four bytes,
// addresses and ports in network order, the slot in host order.
type Key struct {
	Map   Map
	Bytes string
}

// Value is what an element holds: a chain to go to, or data; both empty in a set.
type Value struct {
	Chain string
	Data  string
}

// Objects are the elements of one Service.
type Objects map[Key]Value

// Slots remembers which endpoint of a port sits in which slot, so that a change moves as little as possible.
type Slots map[string][]netip.AddrPort

// Compile makes the elements of a Service. slots are those of the Service's last compilation; the new ones are
// returned.
func Compile(s *service.Service, old Slots) (Objects, Slots) {
	objs, slots := Objects{}, Slots{}
	if s == nil {
		return objs, slots
	}
	for _, ip := range s.ClusterIPs {
		objs[Key{ClusterIPs, addr(ip)}] = Value{}
	}
	for _, p := range s.Ports {
		id := p.Name + "/" + string(p.Protocol) + "/" + strconv.Itoa(int(p.Port))
		internal := assign(old[id+"/internal"], p.Internal)
		external := assign(old[id+"/external"], p.External)
		slots[id+"/internal"], slots[id+"/external"] = internal, external
		objs.addresses(p, p.ClusterIPs, internal, "lb-", p.InternalLocal)
		door := "xlb-"
		if p.ExternalLocal {
			door = "lb-" // the client's address must stay
		}
		objs.addresses(p, p.ExternalIPs, external, door, p.ExternalLocal)
		objs.nodePort(p, external)
		objs.hairpins(p.Internal)
		objs.hairpins(p.External)
	}
	return objs, slots
}

// addresses adds one port behind a list of addresses.
func (o Objects) addresses(p service.Port, ips []netip.Addr, eps []netip.AddrPort, door string, local bool) {
	for _, ip := range ips {
		key := addr(ip) + proto(p.Protocol) + port(p.Port)
		if len(eps) == 0 {
			if local {
				o[Key{Dropped, key}] = Value{}
			}
			continue // rejected as a cluster IP that nobody rewrote
		}
		o[Key{Services, key}] = Value{Chain: door + strconv.Itoa(len(eps))}
		for i, ep := range eps {
			o[Key{Endpoints, key + slot(i)}] = Value{Data: target(ep)}
		}
	}
}

func (o Objects) nodePort(p service.Port, eps []netip.AddrPort) {
	if p.NodePort == 0 || len(eps) == 0 {
		return // the kernel answers for a closed port
	}
	door := "np-"
	if p.ExternalLocal {
		door = "npl-"
	}
	key := proto(p.Protocol) + port(p.NodePort)
	o[Key{NodePorts, key}] = Value{Chain: door + strconv.Itoa(len(eps))}
	for i, ep := range eps {
		o[Key{NodeSlots, key + slot(i)}] = Value{Data: target(ep)}
	}
}

func (o Objects) hairpins(eps []service.Endpoint) {
	for _, ep := range eps {
		if ep.Local {
			o[Key{Hairpins, addr(ep.Addr.Addr()) + addr(ep.Addr.Addr())}] = Value{}
		}
	}
}

// assign puts endpoints into slots: who stays keeps its slot, the last moves into a hole, the new come at the end.
func assign(old []netip.AddrPort, want []service.Endpoint) []netip.AddrPort {
	need := map[netip.AddrPort]bool{}
	for _, e := range want {
		need[e.Addr] = true
	}
	out := make([]netip.AddrPort, 0, len(want))
	free := []int(nil)
	for _, a := range old {
		if need[a] {
			delete(need, a)
		} else {
			free = append(free, len(out))
			a = netip.AddrPort{}
		}
		out = append(out, a)
	}
	for _, e := range want {
		if !need[e.Addr] {
			continue
		}
		delete(need, e.Addr)
		if len(free) > 0 {
			out[free[0]], free = e.Addr, free[1:]
			continue
		}
		out = append(out, e.Addr)
	}
	for _, i := range slices.Backward(free) { // holes that no new endpoint filled
		last := len(out) - 1
		out[i] = out[last]
		out = out[:last]
	}
	return out
}

func addr(a netip.Addr) string { return string(a.AsSlice()) }

func port(p uint16) string { return string([]byte{byte(p >> 8), byte(p), 0, 0}) }

func slot(i int) string { return string(binary.NativeEndian.AppendUint32(nil, uint32(i))) }

func target(a netip.AddrPort) string { return addr(a.Addr()) + port(a.Port()) }

// proto is the IP protocol number, padded.
func proto(p corev1.Protocol) string {
	n := map[corev1.Protocol]byte{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132}[p]
	return string([]byte{n, 0, 0, 0})
}
