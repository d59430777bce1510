// Package bridge is the datapath of the built-in network: a bridge on the host, and for each sandbox a veth pair
// whose one end is a port of the bridge and whose other end is the sandbox's interface.
//
// A sandbox's address has the full prefix length, its only route leads to the bridge's own address, and the
// ports are isolated from each other: so every packet of a sandbox is routed by the host and passes netfilter,
// also one between two sandboxes of the same node. Neighbours are written down on both sides when a sandbox is
// plugged in (its MAC address follows from its IP address, the bridge's from the bridge's name), so no ARP
// exchange precedes the first packet and no other sandbox can answer for it.
package bridge

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// portPrefix begins the name of every host end.
const portPrefix = "skv"

// Config describes the bridge.
type Config struct {
	Name string // required: the interface's name
	MTU  int    // required: of the bridge and of every interface behind it
}

// Bridge plugs sandboxes into one bridge. It is safe for concurrent use.
type Bridge struct {
	cfg   Config
	index int
	mac   net.HardwareAddr
	host  *netlink.Handle
}

// Ensure makes the bridge, or takes the one that is there, and brings it up.
func Ensure(cfg Config) (*Bridge, error) {
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	b := &Bridge{cfg: cfg, mac: bridgeMAC(cfg.Name), host: host}
	if err := b.ensure(); err != nil {
		host.Close()
		return nil, fmt.Errorf("bridge %s: %w", cfg.Name, err)
	}
	return b, nil
}

func (b *Bridge) ensure() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = b.cfg.Name, b.cfg.MTU, b.mac
	attrs.Flags = net.FlagUp
	if err := b.host.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create: %w", err)
	}
	link, err := b.host.LinkByName(b.cfg.Name)
	if err != nil {
		return fmt.Errorf("find: %w", err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("an interface of that name exists and is a %s: remove it or choose another name", link.Type())
	}
	b.index = link.Attrs().Index
	if link.Attrs().HardwareAddr.String() != b.mac.String() {
		err = b.host.LinkSetHardwareAddr(link, b.mac)
	}
	if link.Attrs().MTU != b.cfg.MTU {
		err = errors.Join(err, b.host.LinkSetMTU(link, b.cfg.MTU))
	}
	err = errors.Join(err, b.host.LinkSetUp(link))
	for key, value := range map[string]string{
		"send_redirects": "0", // a pod must keep sending to the host, which routes back out of the same interface
		"route_localnet": "1", // hostPorts answer on 127.0.0.1; hostport drops what pods send there
		"rp_filter":      "2", // a pod's packets may leave by another interface than replies come in
	} {
		path := filepath.Join("/proc/sys/net/ipv4/conf", b.cfg.Name, key)
		err = errors.Join(err, os.WriteFile(path, []byte(value), 0o644))
	}
	return err
}

// bridgeMAC derives the bridge's MAC address from its name, so that it stays the same when ports come and go and
// when the bridge is made anew.
func bridgeMAC(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("skiff bridge " + name))
	return append(net.HardwareAddr{0x0a}, sum[:5]...)
}

// SetAddresses gives the bridge exactly these IPv4 addresses.
func (b *Bridge) SetAddresses(want []netip.Prefix) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: b.index, Name: b.cfg.Name}}
	have, err := b.host.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("bridge %s: list addresses: %w", b.cfg.Name, err)
	}
	missing := map[string]bool{}
	for _, p := range want {
		missing[p.String()] = true
	}
	for _, a := range have {
		if text := a.IPNet.String(); missing[text] {
			delete(missing, text)
		} else if err := b.host.AddrDel(link, &a); err != nil {
			return fmt.Errorf("bridge %s: remove address %s: %w", b.cfg.Name, text, err)
		}
	}
	for _, p := range want {
		if !missing[p.String()] {
			continue
		}
		addr := &netlink.Addr{IPNet: ipNet(p.Addr(), p.Bits())}
		if err := b.host.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("bridge %s: add address %s: %w", b.cfg.Name, p, err)
		}
	}
	return nil
}

// Name is the bridge's interface name.
func (b *Bridge) Name() string { return b.cfg.Name }

// MAC is the bridge's MAC address.
func (b *Bridge) MAC() string { return b.mac.String() }

// Close lets go of the bridge; it stays.
func (b *Bridge) Close() { b.host.Close() }

// PortName is the name of the host end for a sandbox's interface, which identifies it after a crash.
func PortName(sandboxID, ifName string) string {
	sum := sha256.Sum256([]byte(sandboxID + "/" + ifName))
	return portPrefix + hex.EncodeToString(sum[:6])
}

// Ports returns the names of the bridge's ports.
func (b *Bridge) Ports() ([]string, error) {
	links, err := b.host.LinkList()
	if err != nil {
		return nil, fmt.Errorf("bridge %s: list ports: %w", b.cfg.Name, err)
	}
	var names []string
	for _, l := range links {
		if l.Attrs().MasterIndex == b.index {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// Remove deletes the bridge of that name and every port of it. Removing what is gone succeeds.
func Remove(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove bridge %s: %w", name, err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("remove bridge %s: it is a %s", name, link.Type())
	}
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("remove bridge %s: list ports: %w", name, err)
	}
	var errs []error
	for _, l := range links {
		if l.Attrs().MasterIndex == link.Attrs().Index {
			errs = append(errs, gone(netlink.LinkDel(l)))
		}
	}
	return errors.Join(append(errs, gone(netlink.LinkDel(link)))...)
}

// gone turns the errors of deleting what is not there into success.
func gone(err error) error {
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) ||
		errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	return err
}

func ipNet(a netip.Addr, bits int) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(bits, a.BitLen())}
}
