package veth

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Port is one interface of a sandbox.
type Port struct {
	SandboxID string
	NetNS     string // path of the sandbox's network namespace
	IfName    string // name of the interface in it
	IP        netip.Addr
	Gateway   netip.Addr // the host's address in the sandbox's range
}

// Plugged is what Plug made.
type Plugged struct {
	HostName string // the host end
	HostMAC  string
	MAC      string // of the sandbox's interface
}

// settings are the host end's IPv4 settings (IFLA_INET_CONF), by number: IPV4_DEVCONF_* of linux/ip.h.
var settings = []struct {
	number int
	value  uint32
}{
	{6, 0},  // send_redirects: a sandbox that reaches itself through a published port comes back the way it went
	{8, 1},  // rp_filter: strict, so a sandbox can only use its own address
	{26, 1}, // route_localnet: published ports answer on 127.0.0.1; hostport drops what sandboxes send there
}

// Attributes of rtnetlink's link messages that the library does not name.
const (
	inetConf         = 1 // IFLA_INET_CONF
	inet6AddrGenMode = 8 // IFLA_INET6_ADDR_GEN_MODE
	addrGenModeNone  = 1 // IN6_ADDR_GEN_MODE_NONE: no link-local address
)

// podMAC derives a sandbox's MAC address from its IPv4 address: 0a:58 and the four bytes, as is customary.
func podMAC(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return append(net.HardwareAddr{0x0a, 0x58}, b[:]...)
}

// Plug connects a sandbox. On error nothing stays. A pair left by an earlier attempt for the same sandbox and
// interface is replaced.
func (h *Host) Plug(p Port) (Plugged, error) {
	done := Plugged{HostName: Name(p.SandboxID, p.IfName), HostMAC: hostMAC.String(), MAC: podMAC(p.IP).String()}
	if err := h.plug(p, done.HostName); err != nil {
		return Plugged{}, errors.Join(fmt.Errorf("plug in %s: %w", p.IP, err), h.Unplug(done.HostName))
	}
	return done, nil
}

func (h *Host) plug(p Port, hostName string) error {
	ns, err := netns.GetFromPath(p.NetNS)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", p.NetNS, err)
	}
	defer ns.Close()
	err = h.addPair(p, hostName, int(ns))
	if errors.Is(err, unix.EEXIST) {
		if err := h.Unplug(hostName); err != nil {
			return err
		}
		err = h.addPair(p, hostName, int(ns))
	}
	if err != nil {
		return fmt.Errorf("create veth pair %s: %w", hostName, err)
	}
	if err := h.configure(hostName); err != nil {
		return fmt.Errorf("configure %s: %w", hostName, err)
	}
	if err := h.inside(p, ns); err != nil {
		return err
	}
	return h.outside(p, hostName)
}

// addPair makes the pair in one message: the host end up, the other in the sandbox (and down, because the kernel
// brings no end up before its peer exists).
func (h *Host) addPair(p Port, hostName string, ns int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	mtu := nl.Uint32Attr(uint32(h.cfg.MTU))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(hostName)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, mtu))
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, hostMAC))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.IfName))
	peer.AddRtAttr(unix.IFLA_MTU, mtu)
	peer.AddRtAttr(unix.IFLA_ADDRESS, podMAC(p.IP))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// configure makes the host end's settings, by netlink in one message instead of by files below /proc/sys.
func (h *Host) configure(hostName string) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(hostName)))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil)
	for _, s := range settings {
		conf.AddRtAttr(s.number, nl.Uint32Attr(s.value))
	}
	req.AddData(spec)
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return err
	}
	return withoutIPv6(hostName)
}

// withoutIPv6 keeps an interface from making itself a link-local address. A kernel without IPv6 has none to make.
func withoutIPv6(name string) error {
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(inet6AddrGenMode, []byte{addrGenModeNone})
	req.AddData(spec)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil
	}
	return err
}

// inside gives the sandbox's interface its address, route and neighbour.
func (h *Host) inside(p Port, ns netns.NsHandle) error {
	s, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in the sandbox: %w", err)
	}
	defer s.Close()
	link, err := s.LinkByName(p.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the sandbox: %w", p.IfName, err)
	}
	if err := s.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", p.IfName, err)
	}
	if err := s.AddrAdd(link, &netlink.Addr{IPNet: ipNet(p.IP, 32)}); err != nil {
		return fmt.Errorf("give %s its address: %w", p.IfName, err)
	}
	index, gw := link.Attrs().Index, net.IP(p.Gateway.AsSlice())
	route := &netlink.Route{
		LinkIndex: index, Gw: gw, Src: p.IP.AsSlice(), Dst: ipNet(netip.IPv4Unspecified(), 0),
		Flags: int(netlink.FLAG_ONLINK), Scope: netlink.SCOPE_UNIVERSE,
	}
	if err := s.RouteAdd(route); err != nil {
		return fmt.Errorf("route the sandbox through %s: %w", p.Gateway, err)
	}
	neigh := permanent(index, p.Gateway, hostMAC)
	if err := s.NeighSet(neigh); err != nil {
		return fmt.Errorf("write down neighbour %s in the sandbox: %w", p.Gateway, err)
	}
	return nil
}

// outside routes the sandbox's address to its host end.
func (h *Host) outside(p Port, hostName string) error {
	link, err := h.nl.LinkByName(hostName)
	if err != nil {
		return fmt.Errorf("find %s: %w", hostName, err)
	}
	index := link.Attrs().Index
	if err := h.nl.NeighSet(permanent(index, p.IP, podMAC(p.IP))); err != nil {
		return fmt.Errorf("write down neighbour %s: %w", p.IP, err)
	}
	route := &netlink.Route{LinkIndex: index, Dst: ipNet(p.IP, 32), Src: p.Gateway.AsSlice(), Scope: netlink.SCOPE_LINK}
	if err := h.nl.RouteReplace(route); err != nil {
		return fmt.Errorf("route %s to %s: %w", p.IP, hostName, err)
	}
	return nil
}

func permanent(index int, ip netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: index, Family: unix.AF_INET, State: unix.NUD_PERMANENT, IP: ip.AsSlice(), HardwareAddr: mac,
	}
}

// Unplug deletes the veth pair with that host end, and with it its routes and neighbours. Unplugging what is gone
// succeeds.
func (h *Host) Unplug(hostName string) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(hostName)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); gone(err) != nil {
		return fmt.Errorf("remove veth pair %s: %w", hostName, err)
	}
	return nil
}

// discarded is the group (IFLA_GROUP) of pairs that wait for Sweep.
const discarded = 0x736b6966

// Discard cuts a sandbox off at once, and leaves the deletion of its veth pair to Sweep: deleting an interface
// takes the kernel some ten times as long as making one, and many at once take no longer than one. Discarding
// what is gone succeeds.
func (h *Host) Discard(hostName string, ip netip.Addr) error {
	if ip.Is4() {
		route := &netlink.Route{Dst: ipNet(ip, 32), Scope: netlink.SCOPE_LINK}
		if err := gone(h.nl.RouteDel(route)); err != nil {
			return fmt.Errorf("cut off %s: remove its route: %w", ip, err)
		}
	}
	req := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(hostName)))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(discarded)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); gone(err) != nil {
		return fmt.Errorf("discard veth pair %s: %w", hostName, err)
	}
	return nil
}

// Sweep deletes every discarded veth pair, in one request.
func (h *Host) Sweep() error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(discarded)))
	if _, err := req.Execute(unix.NETLINK_ROUTE, 0); gone(err) != nil {
		return fmt.Errorf("delete discarded veth pairs: %w", err)
	}
	return nil
}
