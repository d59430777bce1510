package plugins

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/skiff-node/skiff/network/bridge"
	"github.com/skiff-node/skiff/network/cni"
	"github.com/skiff-node/skiff/network/hostport"
	"github.com/skiff-node/skiff/network/netns"
)

// Portmap is the reference plugin "portmap", with source NAT where the reply would not come back, as is its
// default.
type Portmap struct{ Ports *hostport.Table }

// Supports implements cni.Partial.
func (p *Portmap) Supports(conf []byte) error {
	var c struct {
		SNAT    *bool  `json:"snat"`
		Backend string `json:"backend"`
	}
	if err := json.Unmarshal(conf, &c); err != nil {
		return err
	}
	if c.SNAT != nil && !*c.SNAT {
		return fmt.Errorf(`it does not honour "snat": false`)
	}
	if c.Backend != "" && c.Backend != "nftables" {
		return fmt.Errorf(`it does not honour "backend": %q`, c.Backend)
	}
	return supports(conf, []string{"portMappings"}, "snat", "backend")
}

func (p *Portmap) key(c cni.Call) string { return Key(c.ContainerID, c.IfName) + "/portmap" }

// Add implements cni.Plugin.
func (p *Portmap) Add(_ context.Context, c cni.Call) (*cni.Result, error) {
	prev, err := c.PrevResult()
	if err != nil {
		return nil, err
	}
	if prev == nil {
		return nil, cni.Error(cni.CodeInvalidConfig, "portmap: it must follow another plugin in the list")
	}
	mappings, err := portMappings(c)
	if err != nil || len(mappings) == 0 {
		return prev, err
	}
	ip, ok := firstIPv4(prev)
	if !ok {
		return nil, cni.Error(cni.CodeInvalidConfig, "portmap: the container has no IPv4 address to publish ports of")
	}
	if err := bridge.AllowLoopback(ip); err != nil {
		return nil, err
	}
	return prev, p.Ports.Add(hostport.Entry{Key: p.key(c), IP: ip, Ports: mappings})
}

func firstIPv4(r *cni.Result) (netip.Addr, bool) {
	for _, ip := range r.IPs {
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok && a.Unmap().Is4() {
			return a.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// Del implements cni.Plugin.
func (p *Portmap) Del(_ context.Context, c cni.Call) error { return p.Ports.Delete(p.key(c)) }

// Check implements cni.Plugin.
func (p *Portmap) Check(_ context.Context, c cni.Call) error {
	mappings, err := portMappings(c)
	if err != nil || len(mappings) == 0 {
		return err
	}
	if _, ok := p.Ports.Get(p.key(c)); !ok {
		return fmt.Errorf("portmap: the ports of container %s are not published", c.ContainerID)
	}
	return nil
}

// Status implements cni.Plugin.
func (p *Portmap) Status(context.Context, cni.Call) error { return nil }

// GC implements cni.Plugin. The engine collects, for all networks at once.
func (p *Portmap) GC(context.Context, cni.Call) error { return nil }

// Loopback is the reference plugin "loopback".
type Loopback struct{}

// Add implements cni.Plugin.
func (Loopback) Add(_ context.Context, c cni.Call) (*cni.Result, error) {
	if err := netns.LoopbackUp(c.NetNS); err != nil {
		return nil, err
	}
	prev, err := c.PrevResult()
	if prev != nil || err != nil {
		return prev, err
	}
	first := 0
	return &cni.Result{
		CNIVersion: "1.1.0",
		Interfaces: []*cni.Interface{{Name: "lo", Mac: "00:00:00:00:00:00", Sandbox: c.NetNS}},
		IPs:        []*cni.IPConfig{{Interface: &first, Address: ipNet(netip.MustParsePrefix("127.0.0.1/8"))}},
	}, nil
}

// Del implements cni.Plugin. The interface goes away with its namespace.
func (Loopback) Del(context.Context, cni.Call) error { return nil }

// Check implements cni.Plugin.
func (Loopback) Check(_ context.Context, c cni.Call) error { return netns.LoopbackUp(c.NetNS) }

// Status implements cni.Plugin.
func (Loopback) Status(context.Context, cni.Call) error { return nil }

// GC implements cni.Plugin.
func (Loopback) GC(context.Context, cni.Call) error { return nil }
