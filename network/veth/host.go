// Package veth is the datapath of the built-in network: for each sandbox a veth pair whose ends are routed, not
// bridged, and one interface of the host that has the gateway's address.
//
//	sandbox  eth0 10.42.0.5/32    default via 10.42.0.1 onlink, which is at 0a:…  (a permanent neighbour)
//	   │
//	host     skv3f2a…             10.42.0.5 dev skv3f2a…, which is at 0a:58:0a:2a:00:05 (a permanent neighbour)
//	host     skiff0 10.42.0.1/32
//
// So every packet of a sandbox is routed by the host and passes netfilter, also one between two sandboxes of the
// same node. A bridge would not do: where br_netfilter is loaded, and it is wherever Docker or an upstream node
// runs, the kernel rewrites a bridged packet's destination inside the bridge and sends it on from port to port.
//
// Neighbours are written down on both sides, so no ARP exchange precedes the first packet and no sandbox can
// answer for another; strict reverse-path filtering keeps it from using another's address. Routes and neighbours
// go away with the pair: nothing but the pair itself needs to be found again after a crash.
package veth

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Prefix begins the name of every host end.
const Prefix = "skv"

// hostMAC is the MAC address of every host end: the sandboxes' gateway is always at this one.
var hostMAC = net.HardwareAddr{0x0a, 0x58, 0x00, 0x00, 0x00, 0x01}

// Config describes the host's side.
type Config struct {
	Interface string // required: the interface that has the gateways' addresses
	MTU       int    // required: of every interface
}

// Host plugs sandboxes in. It is safe for concurrent use.
type Host struct {
	cfg   Config
	index int
	nl    *netlink.Handle
}

// Ensure makes the interface of the gateways' addresses, or takes the one that is there, and brings it up. It is a
// bridge without ports, because not every kernel has the dummy driver.
func Ensure(cfg Config) (*Host, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	host := &Host{cfg: cfg, nl: h}
	if err := host.ensure(); err != nil {
		h.Close()
		return nil, fmt.Errorf("interface %s: %w", cfg.Interface, err)
	}
	return host, nil
}

func (h *Host) ensure() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = h.cfg.Interface, h.cfg.MTU
	if err := h.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("create: %w", err)
	}
	link, err := h.nl.LinkByName(h.cfg.Interface)
	if err != nil {
		return fmt.Errorf("find: %w", err)
	}
	if link.Type() != "bridge" {
		return fmt.Errorf("an interface of that name exists and is a %s: remove it or choose another name", link.Type())
	}
	h.index = link.Attrs().Index
	if _, err := batch(here(), withoutIPv6(h.cfg.Interface)); err != nil {
		return err
	}
	return h.nl.LinkSetUp(link)
}

// SetAddresses gives the host's interface exactly these IPv4 addresses.
func (h *Host) SetAddresses(want []netip.Addr) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: h.index, Name: h.cfg.Interface}}
	have, err := whole(func() ([]netlink.Addr, error) { return h.nl.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("interface %s: list addresses: %w", h.cfg.Interface, err)
	}
	missing := map[string]netip.Addr{}
	for _, a := range want {
		missing[ipNet(a, 32).String()] = a
	}
	for _, a := range have {
		if text := a.IPNet.String(); missing[text].IsValid() {
			delete(missing, text)
		} else if err := h.nl.AddrDel(link, &a); err != nil {
			return fmt.Errorf("interface %s: remove address %s: %w", h.cfg.Interface, text, err)
		}
	}
	return h.AddAddresses(slices.Collect(maps.Values(missing)))
}

// AddAddresses gives the host's interface these addresses beside those it has.
func (h *Host) AddAddresses(want []netip.Addr) error {
	link := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: h.index, Name: h.cfg.Interface}}
	for _, a := range want {
		if err := h.nl.AddrReplace(link, &netlink.Addr{IPNet: ipNet(a, 32)}); err != nil {
			return fmt.Errorf("interface %s: add address %s: %w", h.cfg.Interface, a, err)
		}
	}
	return nil
}

// Interface is the name of the host's interface.
func (h *Host) Interface() string { return h.cfg.Interface }

// Close lets go of the host; everything stays.
func (h *Host) Close() { h.nl.Close() }

// Name is the name of the host end for a sandbox's interface, which identifies it after a crash.
func Name(sandboxID, ifName string) string {
	sum := sha256.Sum256([]byte(sandboxID + "/" + ifName))
	return Prefix + hex.EncodeToString(sum[:6])
}

// List returns the names of all host ends.
func (h *Host) List() ([]string, error) {
	links, err := list(h.nl.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list veth pairs: %w", err)
	}
	var names []string
	for _, l := range links {
		names = append(names, l.Attrs().Name)
	}
	return names, nil
}

// whole takes a dump again that a concurrent change interrupted.
func whole[T any](dump func() ([]T, error)) (all []T, err error) {
	for range 100 {
		if all, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

// list returns the host ends.
func list(dump func() ([]netlink.Link, error)) ([]netlink.Link, error) {
	links, err := whole(dump)
	var ours []netlink.Link
	for _, l := range links {
		if l.Type() == "veth" && strings.HasPrefix(l.Attrs().Name, Prefix) {
			ours = append(ours, l)
		}
	}
	return ours, err
}

// RemoveAll deletes every veth pair, and the host's interface of that name. Removing what is gone succeeds.
func RemoveAll(name string) error {
	links, err := list(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list veth pairs: %w", err)
	}
	var errs []error
	for _, l := range links {
		errs = append(errs, gone(netlink.LinkDel(l)))
	}
	link, err := netlink.LinkByName(name)
	if err == nil && link.Type() != "bridge" {
		err = fmt.Errorf("it is a %s, not ours", link.Type())
	} else if err == nil {
		err = netlink.LinkDel(link)
	}
	if err := gone(err); err != nil {
		errs = append(errs, fmt.Errorf("remove interface %s: %w", name, err))
	}
	return errors.Join(errs...)
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
