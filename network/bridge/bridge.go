// Package bridge is the datapath of the reference CNI plugin "bridge", for networks that an operator configured:
// sandboxes are ports of an ordinary bridge and reach each other there, without the host. The built-in network is
// package veth's.
package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// alias marks the bridges that were made here (IFLA_IFALIAS), so that RemoveAll finds them.
const alias = "made by skiff"

// Config describes a bridge.
type Config struct {
	Name     string
	MTU      int // zero: the kernel's default
	Promisc  bool
	Gateways []netip.Prefix // addresses that the bridge is to have
}

// Port is one interface of a sandbox.
type Port struct {
	HostName  string // the host end's name
	NetNS     string // path of the sandbox's network namespace
	IfName    string // name of the interface in it
	MTU       int
	Addresses []netip.Prefix
	Routes    []Route
	Hairpin   bool // the port may send back what comes from it
	Isolated  bool // the port reaches only ports that are not isolated
}

// Route is a route in the sandbox. An invalid gateway makes it on-link.
type Route struct {
	Dst     netip.Prefix
	Gateway netip.Addr
}

// Ensure makes the bridge, or takes the one that is there, gives it the addresses and brings it up. It returns its
// MAC address.
func Ensure(cfg Config) (mac string, err error) {
	link, err := ensure(cfg)
	if err != nil {
		return "", fmt.Errorf("bridge %s: %w", cfg.Name, err)
	}
	return link.Attrs().HardwareAddr.String(), nil
}

func ensure(cfg Config) (netlink.Link, error) {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = cfg.Name, cfg.MTU
	created := &netlink.Bridge{LinkAttrs: attrs}
	err := netlink.LinkAdd(created)
	if err == nil {
		err = netlink.LinkSetAlias(created, alias)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, fmt.Errorf("create: %w", err)
	}
	link, err := netlink.LinkByName(cfg.Name)
	if err != nil {
		return nil, fmt.Errorf("find: %w", err)
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("an interface of that name exists and is a %s", link.Type())
	}
	if cfg.Promisc {
		if err := netlink.SetPromiscOn(link); err != nil {
			return nil, fmt.Errorf("set promiscuous: %w", err)
		}
	}
	for _, p := range cfg.Gateways {
		if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p)}); err != nil {
			return nil, fmt.Errorf("add address %s: %w", p, err)
		}
	}
	return link, netlink.LinkSetUp(link)
}

// Plug connects a sandbox to the bridge, and returns the MAC addresses of both ends. On error nothing stays. A port
// of the same name is replaced.
func Plug(bridge string, p Port) (hostMAC, mac string, err error) {
	hostMAC, mac, err = plug(bridge, p)
	if err != nil {
		return "", "", errors.Join(fmt.Errorf("plug into bridge %s: %w", bridge, err), Unplug(p.HostName))
	}
	return hostMAC, mac, nil
}

func plug(bridge string, p Port) (hostMAC, mac string, err error) {
	ns, err := netns.GetFromPath(p.NetNS)
	if err != nil {
		return "", "", fmt.Errorf("open network namespace %s: %w", p.NetNS, err)
	}
	defer ns.Close()
	if err := Unplug(p.HostName); err != nil {
		return "", "", err
	}
	host, err := addPair(bridge, p, int(ns))
	if err != nil {
		return "", "", err
	}
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return "", "", fmt.Errorf("open netlink in the sandbox: %w", err)
	}
	defer inside.Close()
	inner, err := inside.LinkByName(p.IfName)
	if err != nil {
		return "", "", fmt.Errorf("find %s in the sandbox: %w", p.IfName, err)
	}
	if err := configure(inside, inner, p); err != nil {
		return "", "", err
	}
	return host.Attrs().HardwareAddr.String(), inner.Attrs().HardwareAddr.String(), nil
}

// addPair makes the veth pair and the host end a port of the bridge.
func addPair(bridge string, p Port, ns int) (netlink.Link, error) {
	br, err := netlink.LinkByName(bridge)
	if err != nil {
		return nil, fmt.Errorf("find the bridge: %w", err)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.MasterIndex, attrs.Flags = p.HostName, p.MTU, br.Attrs().Index, net.FlagUp
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: p.IfName, PeerNamespace: netlink.NsFd(ns)}
	if err := netlink.LinkAdd(pair); err != nil {
		return nil, fmt.Errorf("create veth pair %s: %w", p.HostName, err)
	}
	host, err := netlink.LinkByName(p.HostName)
	if err != nil {
		return nil, fmt.Errorf("find %s: %w", p.HostName, err)
	}
	if err := netlink.LinkSetHairpin(host, p.Hairpin); err != nil {
		return nil, fmt.Errorf("set hairpin mode of %s: %w", p.HostName, err)
	}
	if err := netlink.LinkSetIsolated(host, p.Isolated); err != nil {
		return nil, fmt.Errorf("set isolation of %s: %w", p.HostName, err)
	}
	return host, nil
}

// configure brings the sandbox's interface up with its addresses and routes.
func configure(inside *netlink.Handle, link netlink.Link, p Port) error {
	if err := inside.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", p.IfName, err)
	}
	for _, a := range p.Addresses {
		if err := inside.AddrAdd(link, &netlink.Addr{IPNet: ipNet(a)}); err != nil {
			return fmt.Errorf("give %s the address %s: %w", p.IfName, a, err)
		}
	}
	for _, r := range p.Routes {
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(r.Dst), Scope: netlink.SCOPE_LINK}
		if r.Gateway.IsValid() {
			route.Gw, route.Scope = r.Gateway.AsSlice(), netlink.SCOPE_UNIVERSE
		}
		if err := inside.RouteAdd(route); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add the route to %s in the sandbox: %w", r.Dst, err)
		}
	}
	return nil
}

// Unplug deletes a port. Unplugging what is gone succeeds.
func Unplug(hostName string) error {
	link, err := netlink.LinkByName(hostName)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove port %s: %w", hostName, err)
	}
	return nil
}

// RemoveAll deletes every bridge that Ensure made.
func RemoveAll() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list bridges: %w", err)
	}
	var errs []error
	for _, l := range links {
		if l.Type() == "bridge" && l.Attrs().Alias == alias {
			errs = append(errs, netlink.LinkDel(l))
		}
	}
	return errors.Join(errs...)
}

// AllowLoopback lets the host's 127.0.0.1 reach a sandbox's published ports, on the interface that leads to it
// (route_localnet). What comes in on that interface for 127.0.0.0/8 is dropped by the table of package hostport.
func AllowLoopback(to netip.Addr) error {
	routes, err := netlink.RouteGet(to.AsSlice())
	if err != nil || len(routes) == 0 {
		return fmt.Errorf("find the interface that leads to %s: %w", to, err)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return fmt.Errorf("find the interface that leads to %s: %w", to, err)
	}
	path := "/proc/sys/net/ipv4/conf/" + link.Attrs().Name + "/route_localnet"
	if err := os.WriteFile(path, []byte("1"), 0o644); err != nil {
		return fmt.Errorf("let 127.0.0.1 reach %s: %w", to, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
