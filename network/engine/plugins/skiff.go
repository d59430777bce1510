// Package plugins holds the CNI plugin types that are built in: skiff, the built-in network in one step, and the
// reference plugins bridge, host-local, portmap and loopback as far as their common keys go. They run inside the
// engine, and skiff also as an executable.
package plugins

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/skiff-node/skiff/network/cni"
	"github.com/skiff-node/skiff/network/hostport"
	"github.com/skiff-node/skiff/network/ipam"
	"github.com/skiff-node/skiff/network/veth"
)

// Skiff is the built-in network as a CNI plugin: address, veth pair, published ports.
type Skiff struct {
	Addresses *ipam.Store
	Host      *veth.Host
	Ports     *hostport.Table
	// Discarded is told that there are veth pairs to sweep up. Without it they are swept up on the spot.
	Discarded func()
	// Ready returns why no container can be attached, or nil.
	Ready func() error
}

// Key is how an interface of a sandbox is named in the address journal.
func Key(sandboxID, ifName string) string { return sandboxID + "/" + ifName }

// SandboxOf is the sandbox of a Key.
func SandboxOf(key string) string {
	id, _, _ := strings.Cut(key, "/")
	return id
}

// Supports implements cni.Partial: within the engine everything is the engine's to configure.
func (s *Skiff) Supports(conf []byte) error { return supports(conf, []string{"portMappings"}) }

// Add implements cni.Plugin.
func (s *Skiff) Add(_ context.Context, c cni.Call) (*cni.Result, error) {
	if err := s.Ready(); err != nil {
		return nil, err
	}
	mappings, err := portMappings(c)
	if err != nil {
		return nil, err
	}
	addrs, err := s.Addresses.Allocate(Key(c.ContainerID, c.IfName))
	if err != nil {
		return nil, err
	}
	ip := addrs[0]
	r, ok := s.Addresses.Range(ip)
	if !ok {
		return nil, errors.Join(fmt.Errorf("the sandbox holds %s, which is no address of the node any more", ip), s.undo(c))
	}
	port := veth.Port{SandboxID: c.ContainerID, NetNS: c.NetNS, IfName: c.IfName, IP: ip, Gateway: r.Gateway}
	plugged, err := s.Host.Plug(port)
	if err != nil {
		return nil, errors.Join(err, s.undo(c))
	}
	if len(mappings) > 0 {
		err = s.Ports.Add(hostport.Entry{Key: Key(c.ContainerID, c.IfName), IP: ip, Ports: mappings})
	}
	if err != nil {
		return nil, errors.Join(err, s.undo(c))
	}
	return s.result(port, plugged), nil
}

func (s *Skiff) result(p veth.Port, done veth.Plugged) *cni.Result {
	inner := 1
	return &cni.Result{
		CNIVersion: "1.1.0",
		Interfaces: []*cni.Interface{
			{Name: done.HostName, Mac: done.HostMAC},
			{Name: p.IfName, Mac: done.MAC, Sandbox: p.NetNS},
		},
		IPs: []*cni.IPConfig{{
			Interface: &inner, Address: ipNet(netip.PrefixFrom(p.IP, p.IP.BitLen())), Gateway: p.Gateway.AsSlice(),
		}},
		Routes: []*cni.Route{{Dst: ipNet(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), GW: p.Gateway.AsSlice()}},
	}
}

// undo takes back what Add did, in the opposite order. The address is given back last, so that no other sandbox
// gets it while this one can still be reached by it.
func (s *Skiff) undo(c cni.Call) error {
	if err := s.Ports.Delete(Key(c.ContainerID, c.IfName)); err != nil {
		return err
	}
	if err := s.discard(c); err != nil {
		return err
	}
	return s.Addresses.Release(Key(c.ContainerID, c.IfName))
}

func (s *Skiff) discard(c cni.Call) error {
	name := veth.Name(c.ContainerID, c.IfName)
	if s.Discarded == nil {
		return s.Host.Unplug(name)
	}
	var ip netip.Addr
	if held := s.Addresses.Get(Key(c.ContainerID, c.IfName)); len(held) > 0 {
		ip = held[0]
	}
	if err := s.Host.Discard(name, ip); err != nil {
		return err
	}
	s.Discarded()
	return nil
}

// Del implements cni.Plugin.
func (s *Skiff) Del(_ context.Context, c cni.Call) error {
	return s.undo(c)
}

// Check implements cni.Plugin.
func (s *Skiff) Check(_ context.Context, c cni.Call) error {
	if len(s.Addresses.Get(Key(c.ContainerID, c.IfName))) == 0 {
		return fmt.Errorf("container %s holds no address for %s", c.ContainerID, c.IfName)
	}
	name := veth.Name(c.ContainerID, c.IfName)
	ports, err := s.Host.List()
	if err != nil {
		return err
	}
	for _, p := range ports {
		if p == name {
			return nil
		}
	}
	return fmt.Errorf("veth pair %s is gone", name)
}

// Status implements cni.Plugin.
func (s *Skiff) Status(context.Context, cni.Call) error {
	return s.Ready()
}

// GC implements cni.Plugin.
func (s *Skiff) GC(_ context.Context, c cni.Call) error {
	valid, err := c.Valid()
	if err != nil {
		return err
	}
	return s.Collect(func(key string) bool { return valid[key] })
}

// Collect takes back what every key has that keep does not want.
func (s *Skiff) Collect(keep func(key string) bool) error {
	for key := range s.Addresses.Holders() {
		if keep(key) {
			continue
		}
		id, ifName, _ := strings.Cut(key, "/")
		if err := s.undo(cni.Call{ContainerID: id, IfName: ifName}); err != nil {
			return err
		}
	}
	return s.Ports.Retain(func(key string) bool { return strings.Count(key, "/") > 1 || keep(key) })
}

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
