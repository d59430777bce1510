// Package guard holds what must be there before the first sandbox is: the routes that keep packets for
// addresses nobody owns on the node, the node's own service addresses, and the kernel's settings for forwarding.
//
//	10.42.0.0/16  unreachable, metric 4278198272     the sandboxes' own routes beat it
//	10.43.0.0/16  dev skiff-svc  src <node address>  gives packets to services a route, so that netfilter sees them
//
// skiff-svc is a bridge without ports, because not every kernel has the dummy driver.
package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// Protocol marks every route that skiff makes (rtm_protocol), so that it finds them again.
	Protocol netlink.RouteProtocol = 83
	// metric loses against every other route to the same prefix.
	metric = 4278198272
)

// sysctls are the settings of the whole host that the pod network needs.
var sysctls = []struct{ key, value string }{
	{"net/ipv4/ip_forward", "1"},
	{"net/ipv4/conf/all/send_redirects", "0"}, // the kernel sends them when either this or the interface's says so
}

// Config is the desired state.
type Config struct {
	Cluster   []netip.Prefix // ranges of pods, of all nodes
	Services  []netip.Prefix // ranges of services
	NodeIP    netip.Addr     // source of packets to services; zero: the kernel chooses
	Local     []netip.Addr   // addresses that are to be local on every node
	Interface string         // the bridge without ports for services
	Record    string         // file that remembers the host's settings from before; must not outlive a boot
}

// Apply brings the host to the desired state. It may be called again with another one.
func Apply(cfg Config) error {
	if err := Forward(cfg.Record); err != nil {
		return err
	}
	var wanted []netlink.Route
	for _, p := range cfg.Cluster {
		if p.Addr().Is4() {
			wanted = append(wanted, unreachable(p))
		}
	}
	index, err := serviceInterface(cfg)
	if err != nil {
		return err
	}
	for _, p := range cfg.Services {
		if p.Addr().Is4() && index != 0 {
			wanted = append(wanted, toServices(p, index, cfg.NodeIP))
		}
	}
	for _, r := range wanted {
		err := netlink.RouteReplace(&r)
		if errors.Is(err, unix.EINVAL) && r.Src != nil {
			return fmt.Errorf("add route to %s: the node's address %s is not an address of this host", r.Dst, cfg.NodeIP)
		}
		if err != nil {
			return fmt.Errorf("add route to %s: %w", r.Dst, err)
		}
	}
	return prune(wanted)
}

func unreachable(p netip.Prefix) netlink.Route {
	return netlink.Route{Dst: ipNet(p.Masked()), Type: unix.RTN_UNREACHABLE, Priority: metric, Protocol: Protocol, Table: unix.RT_TABLE_MAIN}
}

func toServices(p netip.Prefix, index int, nodeIP netip.Addr) netlink.Route {
	r := netlink.Route{Dst: ipNet(p.Masked()), LinkIndex: index, Scope: netlink.SCOPE_LINK, Protocol: Protocol, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST}
	if nodeIP.Is4() {
		r.Src = nodeIP.AsSlice()
	}
	return r
}

// serviceInterface makes the interface for services with its local addresses, and returns its index; 0 when
// there is no need for one.
func serviceInterface(cfg Config) (int, error) {
	if len(cfg.Services) == 0 && len(cfg.Local) == 0 {
		return 0, removeLink(cfg.Interface)
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = cfg.Interface
	if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil && !errors.Is(err, unix.EEXIST) {
		return 0, fmt.Errorf("create %s: %w", cfg.Interface, err)
	}
	link, err := netlink.LinkByName(cfg.Interface)
	if err != nil {
		return 0, fmt.Errorf("find %s: %w", cfg.Interface, err)
	}
	mode := sysctlPath("net/ipv6/conf/" + cfg.Interface + "/addr_gen_mode")
	if err := os.WriteFile(mode, []byte("1"), 0o644); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, fmt.Errorf("keep %s without an IPv6 address: %w", cfg.Interface, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return 0, fmt.Errorf("set %s up: %w", cfg.Interface, err)
	}
	return link.Attrs().Index, localAddresses(link, cfg.Local)
}

// localAddresses gives the link exactly these addresses.
func localAddresses(link netlink.Link, want []netip.Addr) error {
	have, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return fmt.Errorf("list addresses of %s: %w", link.Attrs().Name, err)
	}
	missing := map[string]netip.Addr{}
	for _, a := range want {
		if a.Is4() {
			missing[a.String()] = a
		}
	}
	for _, a := range have {
		if _, ok := missing[a.IP.String()]; ok {
			delete(missing, a.IP.String())
		} else if err := netlink.AddrDel(link, &a); err != nil {
			return fmt.Errorf("remove %s from %s: %w", a.IPNet, link.Attrs().Name, err)
		}
	}
	for _, a := range missing {
		addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a, a.BitLen()))}
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add %s to %s: %w", a, link.Attrs().Name, err)
		}
	}
	return nil
}

// prune removes our routes that are not wanted.
func prune(wanted []netlink.Route) error {
	filter := &netlink.Route{Protocol: Protocol, Table: unix.RT_TABLE_MAIN}
	have, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, filter, netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	keep := map[string]bool{}
	for _, r := range wanted {
		keep[identity(r)] = true
	}
	for _, r := range have {
		if keep[identity(r)] {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route to %s: %w", r.Dst, err)
		}
	}
	return nil
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

func identity(r netlink.Route) string { return fmt.Sprint(r.Dst, r.Type, r.Priority) }

// Remove takes everything away that Apply made, and sets the host's settings back.
func Remove(cfg Config) error {
	return errors.Join(prune(nil), removeLink(cfg.Interface), restoreSysctls(cfg.Record))
}

func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil && link.Type() != "bridge" {
		return fmt.Errorf("remove %s: it is a %s, not ours", name, link.Type())
	}
	if err == nil {
		err = netlink.LinkDel(link)
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return nil
}

// Unreachable adds the routes for cluster ranges alone, beside those that are there.
func Unreachable(cluster []netip.Prefix) error {
	for _, p := range cluster {
		if !p.Addr().Is4() {
			continue
		}
		r := unreachable(p)
		if err := netlink.RouteReplace(&r); err != nil {
			return fmt.Errorf("add route to %s: %w", r.Dst, err)
		}
	}
	return nil
}

// Forward makes the host forward packets. Which settings it had before the first change is written to the record.
func Forward(record string) error {
	if err := os.MkdirAll(filepath.Dir(record), 0o755); err != nil {
		return fmt.Errorf("record sysctls: %w", err)
	}
	before, err := readRecord(record)
	if err != nil {
		return err
	}
	for _, s := range sysctls {
		data, err := os.ReadFile(sysctlPath(s.key))
		if err != nil {
			return fmt.Errorf("read sysctl %s: %w", s.key, err)
		}
		if _, recorded := before[s.key]; !recorded && strings.TrimSpace(string(data)) != s.value {
			before[s.key] = strings.TrimSpace(string(data))
		}
	}
	if err := writeRecord(record, before); err != nil {
		return err
	}
	for _, s := range sysctls {
		if err := os.WriteFile(sysctlPath(s.key), []byte(s.value), 0o644); err != nil {
			return fmt.Errorf("set sysctl %s=%s: %w", s.key, s.value, err)
		}
	}
	return nil
}

func restoreSysctls(record string) error {
	before, err := readRecord(record)
	if err != nil {
		return err
	}
	for key, value := range before {
		if err := os.WriteFile(sysctlPath(key), []byte(value), 0o644); err != nil {
			return fmt.Errorf("set sysctl %s back to %s: %w", key, value, err)
		}
	}
	if err := os.Remove(record); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the record of sysctls: %w", err)
	}
	return nil
}

func sysctlPath(key string) string { return filepath.Join("/proc/sys", key) }

func readRecord(path string) (map[string]string, error) {
	before := map[string]string{}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return before, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of sysctls: %w", err)
	}
	if err := json.Unmarshal(data, &before); err != nil {
		return nil, fmt.Errorf("record of sysctls %s: %w", path, err)
	}
	return before, nil
}

func writeRecord(path string, before map[string]string) error {
	data, err := json.Marshal(before)
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write the record of sysctls: %w", err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
