// Package conntrack forgets UDP flows that point to endpoints which are gone. UDP has no end of connection: without
// this, a client that keeps its socket would send to a dead pod for as long as it sends (kubernetes#125467).
package conntrack

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Stale is one way that no longer leads anywhere: packets to Frontend that conntrack sends to Endpoint. A zero Endpoint
// means every flow to the frontend (a Service that had no endpoints and now has some). A zero Frontend address means any
// address of the node (a node port).
type Stale struct {
	Frontend netip.AddrPort
	Endpoint netip.Addr
}

// Flush deletes the flows of all stale ways by one dump of the table.
func Flush(stale []Stale) error {
	if len(stale) == 0 {
		return nil
	}
	_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, unix.AF_INET, filter(stale))
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete stale conntrack entries: %w", err)
	}
	return nil
}

// filter matches a flow against any of the stale ways.
type filter []Stale

// MatchConntrackFlow implements netlink.CustomConntrackFilter.
func (f filter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	for _, s := range f {
		if s.Frontend.Port() != flow.Forward.DstPort || !same(s.Frontend.Addr(), flow.Forward.DstIP) {
			continue
		}
		if same(s.Endpoint, flow.Reverse.SrcIP) {
			return true
		}
	}
	return false
}

// same compares; an invalid address stands for any.
func same(a netip.Addr, ip net.IP) bool {
	b, ok := netip.AddrFromSlice(ip)
	return !a.IsValid() || (ok && a == b.Unmap())
}
