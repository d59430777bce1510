package bridge

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

// Port is one sandbox's place on the bridge.
type Port struct {
	SandboxID string
	NetNS     string // path of the sandbox's network namespace
	IfName    string // name of the interface in it
	IP        netip.Addr
	Gateway   netip.Addr // the bridge's address in the sandbox's range
}

// Plugged is what Plug made.
type Plugged struct {
	HostName string // the host end
	MAC      string // of the sandbox's interface
}

// PodMAC derives a sandbox's MAC address from its IPv4 address (0a:58 and the four bytes, as kubenet did).
func PodMAC(ip netip.Addr) net.HardwareAddr {
	b := ip.As4()
	return append(net.HardwareAddr{0x0a, 0x58}, b[:]...)
}

// Plug connects a sandbox. On error nothing stays. A port left by an earlier attempt for the same sandbox and
// interface is replaced.
func (b *Bridge) Plug(p Port) (Plugged, error) {
	done := Plugged{HostName: PortName(p.SandboxID, p.IfName), MAC: PodMAC(p.IP).String()}
	if err := b.plug(p, done.HostName); err != nil {
		return Plugged{}, errors.Join(fmt.Errorf("plug %s into bridge %s: %w", p.IP, b.cfg.Name, err), b.Unplug(p))
	}
	return done, nil
}

func (b *Bridge) plug(p Port, hostName string) error {
	ns, err := netns.GetFromPath(p.NetNS)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", p.NetNS, err)
	}
	defer ns.Close()
	err = b.addVeth(p, hostName, int(ns))
	if errors.Is(err, unix.EEXIST) {
		if err := b.Unplug(p); err != nil {
			return err
		}
		err = b.addVeth(p, hostName, int(ns))
	}
	if err != nil {
		return fmt.Errorf("create veth pair %s: %w", hostName, err)
	}
	if err := b.inside(p, ns); err != nil {
		return err
	}
	port, err := b.host.LinkByName(hostName)
	if err != nil {
		return fmt.Errorf("find %s: %w", hostName, err)
	}
	if err := b.host.LinkSetIsolated(port, true); err != nil {
		return fmt.Errorf("isolate port %s: %w", hostName, err)
	}
	if err := b.host.NeighSet(b.neighbour(p)); err != nil {
		return fmt.Errorf("write down neighbour %s: %w", p.IP, err)
	}
	return nil
}

// addVeth makes the pair in one message: the host end up and on the bridge, the other end in the sandbox (and
// down, because the kernel brings no veth up before its peer exists).
func (b *Bridge) addVeth(p Port, hostName string, ns int) error {
	req := nl.NewNetlinkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Flags, msg.Change = unix.IFF_UP, unix.IFF_UP
	req.AddData(msg)
	mtu := nl.Uint32Attr(uint32(b.cfg.MTU))
	req.AddData(nl.NewRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(hostName)))
	req.AddData(nl.NewRtAttr(unix.IFLA_MTU, mtu))
	req.AddData(nl.NewRtAttr(unix.IFLA_MASTER, nl.Uint32Attr(uint32(b.index))))
	info := nl.NewRtAttr(unix.IFLA_LINKINFO, nil)
	info.AddRtAttr(nl.IFLA_INFO_KIND, nl.NonZeroTerminated("veth"))
	peer := info.AddRtAttr(nl.IFLA_INFO_DATA, nil).AddRtAttr(nl.VETH_INFO_PEER, nil)
	nl.NewIfInfomsgChild(peer, unix.AF_UNSPEC)
	peer.AddRtAttr(unix.IFLA_IFNAME, nl.ZeroTerminated(p.IfName))
	peer.AddRtAttr(unix.IFLA_MTU, mtu)
	peer.AddRtAttr(unix.IFLA_ADDRESS, PodMAC(p.IP))
	peer.AddRtAttr(unix.IFLA_NET_NS_FD, nl.Uint32Attr(uint32(ns)))
	req.AddData(info)
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// inside gives the sandbox's interface its address, route and neighbour.
func (b *Bridge) inside(p Port, ns netns.NsHandle) error {
	h, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in the sandbox: %w", err)
	}
	defer h.Close()
	link, err := h.LinkByName(p.IfName)
	if err != nil {
		return fmt.Errorf("find %s in the sandbox: %w", p.IfName, err)
	}
	addr := &netlink.Addr{IPNet: ipNet(p.IP, p.IP.BitLen())}
	if err := h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", p.IfName, err)
	}
	if err := h.AddrAdd(link, addr); err != nil {
		return fmt.Errorf("give %s its address: %w", p.IfName, err)
	}
	index, gw := link.Attrs().Index, net.IP(p.Gateway.AsSlice())
	route := &netlink.Route{
		LinkIndex: index, Gw: gw, Src: p.IP.AsSlice(), Dst: ipNet(netip.IPv4Unspecified(), 0),
		Flags: int(netlink.FLAG_ONLINK), Scope: netlink.SCOPE_UNIVERSE,
	}
	if err := h.RouteAdd(route); err != nil {
		return fmt.Errorf("route the sandbox through %s: %w", p.Gateway, err)
	}
	neigh := &netlink.Neigh{
		LinkIndex: index, Family: unix.AF_INET, State: unix.NUD_PERMANENT, IP: gw, HardwareAddr: b.mac,
	}
	if err := h.NeighSet(neigh); err != nil {
		return fmt.Errorf("write down neighbour %s in the sandbox: %w", p.Gateway, err)
	}
	return nil
}

func (b *Bridge) neighbour(p Port) *netlink.Neigh {
	return &netlink.Neigh{
		LinkIndex: b.index, Family: unix.AF_INET, State: unix.NUD_PERMANENT,
		IP: p.IP.AsSlice(), HardwareAddr: PodMAC(p.IP),
	}
}

// Unplug removes the sandbox's port. p.IP may be missing when it is not known any more. Unplugging what is gone
// succeeds.
func (b *Bridge) Unplug(p Port) error {
	if p.IP.Is4() {
		if err := gone(b.host.NeighDel(b.neighbour(p))); err != nil {
			return fmt.Errorf("forget neighbour %s: %w", p.IP, err)
		}
	}
	return b.RemovePort(PortName(p.SandboxID, p.IfName))
}

// RemovePort deletes a veth pair by the name of its host end. Removing what is gone succeeds.
func (b *Bridge) RemovePort(name string) error {
	link, err := b.host.LinkByName(name)
	if err == nil {
		err = b.host.LinkDel(link)
	}
	if err := gone(err); err != nil {
		return fmt.Errorf("remove veth pair %s: %w", name, err)
	}
	return nil
}
