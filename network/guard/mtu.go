package guard

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// defaultMTU is Ethernet's.
const defaultMTU = 1500

// largestMTU is what a veth interface can have; the loopback interface has more.
const largestMTU = 65535

// MTU is that of the interface that has the node's address, else that of the default route, else Ethernet's.
func MTU(nodeIP netip.Addr) int {
	if mtu := ofAddress(nodeIP); mtu > 0 && mtu <= largestMTU {
		return mtu
	}
	routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
	if err != nil {
		return defaultMTU
	}
	for _, r := range routes {
		if ones, _ := mask(r.Dst).Size(); ones != 0 || r.LinkIndex == 0 {
			continue
		}
		if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
			return link.Attrs().MTU
		}
	}
	return defaultMTU
}

func mask(n *net.IPNet) net.IPMask {
	if n == nil {
		return net.CIDRMask(0, 32)
	}
	return n.Mask
}

func ofAddress(nodeIP netip.Addr) int {
	if !nodeIP.IsValid() || nodeIP.IsLoopback() {
		return 0
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return 0
	}
	for _, a := range addrs {
		if !a.IP.Equal(nodeIP.AsSlice()) {
			continue
		}
		if link, err := netlink.LinkByIndex(a.LinkIndex); err == nil {
			return link.Attrs().MTU
		}
	}
	return 0
}
