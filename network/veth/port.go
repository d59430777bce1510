package veth

import (
	"encoding/binary"
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
	ends, err := h.pair(p, hostName, int(ns))
	if errors.Is(err, unix.EEXIST) {
		if err := h.Unplug(hostName); err != nil {
			return err
		}
		ends, err = h.pair(p, hostName, int(ns))
	}
	if err != nil {
		return err
	}
	if err := inside(p, ns, ends); err != nil {
		return err
	}
	return outside(p, hostName, ends)
}

// ends are the numbers of a pair's interfaces, each in its namespace.
type ends struct{ host, inner int }

// pair makes the pair with its settings: the host end up, the other in the sandbox (and down, because the kernel
// brings no end up before its peer exists).
func (h *Host) pair(p Port, hostName string, ns int) (ends, error) {
	get := newRequest("find "+hostName, unix.RTM_GETLINK, 0)
	get.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	get.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(hostName)))
	reply, err := batch(here(), h.add(p, hostName, ns), configure(hostName), withoutIPv6(hostName), get)
	if err != nil {
		return ends{}, err
	}
	return endsOf(reply)
}

// endsOf reads the numbers from what the kernel tells of the host end. It leaves the peer's out where both are the same.
func endsOf(link []byte) (ends, error) {
	if len(link) < unix.SizeofIfInfomsg {
		return ends{}, errors.New("find the veth pair: the kernel's answer is torn")
	}
	index := int(nl.DeserializeIfInfomsg(link).Index)
	attrs, err := nl.ParseRouteAttr(link[unix.SizeofIfInfomsg:])
	if err != nil {
		return ends{}, fmt.Errorf("find the veth pair: %w", err)
	}
	out := ends{host: index, inner: index}
	for _, a := range attrs {
		if a.Attr.Type == unix.IFLA_LINK && len(a.Value) >= 4 {
			out.inner = int(binary.NativeEndian.Uint32(a.Value))
		}
	}
	return out, nil
}

func (h *Host) add(p Port, hostName string, ns int) request {
	req := newRequest("create veth pair "+hostName, unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	mtu := nl.Uint32Attr(uint32(h.cfg.MTU))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(hostName)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, mtu))
	req.AddData(nl.NewRtAttr(unix.IFLA_ADDRESS, hostMAC))
	// One queue, which is all that is used of one for each processor; those would be made, and given up again.
	one := nl.Uint32Attr(1)
	req.AddData(nl.NewRtAttr(unix.IFLA_NUM_TX_QUEUES, one))
	req.AddData(nl.NewRtAttr(unix.IFLA_NUM_RX_QUEUES, one))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.IfName))
	peer.AddRtAttr(unix.IFLA_MTU, mtu)
	peer.AddRtAttr(unix.IFLA_ADDRESS, podMAC(p.IP))
	peer.AddRtAttr(unix.IFLA_NUM_TX_QUEUES, one)
	peer.AddRtAttr(unix.IFLA_NUM_RX_QUEUES, one)
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	req.AddData(info)
	return req
}

// configure makes the host end's settings, by netlink in one message instead of by files below /proc/sys.
func configure(hostName string) request {
	req := newRequest("configure "+hostName, unix.RTM_SETLINK, 0)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(hostName)))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	conf := spec.AddRtAttr(unix.AF_INET, nil).AddRtAttr(inetConf, nil)
	for _, s := range settings {
		conf.AddRtAttr(s.number, nl.Uint32Attr(s.value))
	}
	req.AddData(spec)
	return req
}

// withoutIPv6 keeps an interface from making itself a link-local address. A kernel without IPv6 has none to make.
func withoutIPv6(name string) request {
	req := newRequest("configure "+name, unix.RTM_SETLINK, 0)
	req.fine = unix.EAFNOSUPPORT
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(name)))
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	spec.AddRtAttr(unix.AF_INET6, nil).AddRtAttr(inet6AddrGenMode, []byte{addrGenModeNone})
	req.AddData(spec)
	return req
}

// inside gives the sandbox's interface its address, route and neighbour.
func inside(p Port, ns netns.NsHandle, e ends) error {
	up := newRequest(fmt.Sprintf("set %s up", p.IfName), unix.RTM_SETLINK, 0)
	link := nl.NewIfInfomsg(unix.AF_UNSPEC)
	link.Index, link.Flags, link.Change = int32(e.inner), unix.IFF_UP, unix.IFF_UP
	up.AddData(link)

	addr := newRequest(fmt.Sprintf("give %s its address", p.IfName), unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	msg := nl.NewIfAddrmsg(unix.AF_INET)
	msg.Index, msg.Prefixlen = uint32(e.inner), 32
	addr.AddData(msg)
	addr.AddData(nl.NewRtAttr(unix.IFA_LOCAL, p.IP.AsSlice()))
	addr.AddData(nl.NewRtAttr(unix.IFA_ADDRESS, p.IP.AsSlice()))

	way := newRequest(fmt.Sprintf("route the sandbox through %s", p.Gateway), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	dst := nl.NewRtMsg()
	dst.Family, dst.Flags = unix.AF_INET, unix.RTNH_F_ONLINK
	way.AddData(dst)
	way.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, p.IP.AsSlice()))
	way.AddData(nl.NewRtAttr(unix.RTA_GATEWAY, p.Gateway.AsSlice()))
	way.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(e.inner))))

	gateway := permanent("write down neighbour "+p.Gateway.String()+" in the sandbox", e.inner, p.Gateway, hostMAC)
	_, err := batch(ns, up, addr, way, gateway)
	return err
}

// outside routes the sandbox's address to its host end.
func outside(p Port, hostName string, e ends) error {
	way := newRequest(fmt.Sprintf("route %s to %s", p.IP, hostName), unix.RTM_NEWROUTE, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	dst := nl.NewRtMsg()
	dst.Family, dst.Dst_len, dst.Scope = unix.AF_INET, 32, unix.RT_SCOPE_LINK
	way.AddData(dst)
	way.AddData(nl.NewRtAttr(unix.RTA_DST, p.IP.AsSlice()))
	way.AddData(nl.NewRtAttr(unix.RTA_PREFSRC, p.Gateway.AsSlice()))
	way.AddData(nl.NewRtAttr(unix.RTA_OIF, nl.Uint32Attr(uint32(e.host))))
	_, err := batch(here(), permanent("write down neighbour "+p.IP.String(), e.host, p.IP, podMAC(p.IP)), way)
	return err
}

// permanent writes down where an address is, for good.
func permanent(what string, index int, ip netip.Addr, mac net.HardwareAddr) request {
	req := newRequest(what, unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE)
	req.AddData(&netlink.Ndmsg{Family: unix.AF_INET, Index: uint32(index), State: unix.NUD_PERMANENT})
	req.AddData(nl.NewRtAttr(unix.NDA_DST, ip.AsSlice()))
	req.AddData(nl.NewRtAttr(unix.NDA_LLADDR, mac))
	return req
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
