package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/skiff-node/skiff/network/bridge"
	"github.com/skiff-node/skiff/network/cni"
	"github.com/skiff-node/skiff/network/hostport"
	"github.com/skiff-node/skiff/network/veth"
)

// Bridge is the reference plugin "bridge" with its common keys.
type Bridge struct {
	Ports *hostport.Table
	// Delegate calls the IPAM plugin.
	Delegate func(ctx context.Context, plugin string, c cni.Call) (*cni.Result, error)
}

// bridgeConf is what Bridge honours of the reference plugin's configuration.
type bridgeConf struct {
	Bridge           string `json:"bridge"`
	IsGateway        bool   `json:"isGateway"`
	IsDefaultGateway bool   `json:"isDefaultGateway"`
	IPMasq           bool   `json:"ipMasq"`
	MTU              int    `json:"mtu"`
	HairpinMode      bool   `json:"hairpinMode"`
	PromiscMode      bool   `json:"promiscMode"`
	PortIsolation    bool   `json:"portIsolation"`
	IPAM             struct {
		Type string `json:"type"`
	} `json:"ipam"`
	DNS cni.DNS `json:"dns"`
}

// Supports implements cni.Partial.
func (b *Bridge) Supports(conf []byte) error {
	return supports(conf, nil, "bridge", "isGateway", "isDefaultGateway", "ipMasq", "mtu", "hairpinMode",
		"promiscMode", "portIsolation", "ipam", "dns")
}

// supports refuses keys and capabilities that are not known.
func supports(conf []byte, capabilities []string, keys ...string) error {
	if k := cni.UnknownKey(conf, keys...); k != "" {
		return fmt.Errorf("it does not honour the key %q", k)
	}
	var c struct {
		Capabilities json.RawMessage `json:"capabilities"`
	}
	if json.Unmarshal(conf, &c) != nil || len(c.Capabilities) == 0 {
		return nil
	}
	if k := cni.UnknownKey(c.Capabilities, capabilities...); k != "" {
		return fmt.Errorf("it does not have the capability %q", k)
	}
	return nil
}

func (b *Bridge) conf(c cni.Call) (bridgeConf, error) {
	conf := bridgeConf{Bridge: "cni0"}
	err := c.Decode(&conf)
	conf.IsGateway = conf.IsGateway || conf.IsDefaultGateway
	return conf, err
}

// Add implements cni.Plugin.
func (b *Bridge) Add(ctx context.Context, c cni.Call) (*cni.Result, error) {
	conf, err := b.conf(c)
	if err != nil {
		return nil, err
	}
	result := &cni.Result{CNIVersion: "1.1.0"}
	if conf.IPAM.Type != "" {
		if result, err = b.Delegate(ctx, conf.IPAM.Type, c); err != nil {
			return nil, err
		}
	}
	if err := b.connect(c, conf, result); err != nil {
		undo := c
		undo.Command = "DEL"
		return nil, errors.Join(err, b.Del(context.WithoutCancel(ctx), undo))
	}
	if len(conf.DNS.Nameservers)+len(conf.DNS.Search)+len(conf.DNS.Options) > 0 || conf.DNS.Domain != "" {
		result.DNS = conf.DNS
	}
	return result, nil
}

// connect makes the port and completes the result that the IPAM plugin gave.
func (b *Bridge) connect(c cni.Call, conf bridgeConf, result *cni.Result) error {
	port := bridge.Port{
		HostName: veth.Name(c.ContainerID, c.IfName), NetNS: c.NetNS, IfName: c.IfName, MTU: conf.MTU,
		Hairpin: conf.HairpinMode, Isolated: conf.PortIsolation,
	}
	var gateways, masquerade []netip.Prefix
	inner := 2
	for _, ip := range result.IPs {
		p, err := prefix(ip.Address)
		if err != nil {
			return err
		}
		gw, ok := netip.AddrFromSlice(ip.Gateway)
		if gw = gw.Unmap(); !ok {
			gw = p.Masked().Addr().Next()
		}
		if conf.IsGateway {
			ip.Gateway = gw.AsSlice()
			gateways = append(gateways, netip.PrefixFrom(gw, p.Bits()))
		}
		if conf.IsDefaultGateway {
			result.Routes = append(result.Routes, &cni.Route{Dst: *ipNetOf(netip.PrefixFrom(netip.IPv4Unspecified(), 0)), GW: gw.AsSlice()})
		}
		ip.Interface = &inner
		port.Addresses = append(port.Addresses, p)
		masquerade = append(masquerade, p.Masked())
	}
	if err := routes(&port, result); err != nil {
		return err
	}
	bridgeMAC, err := bridge.Ensure(bridge.Config{Name: conf.Bridge, MTU: conf.MTU, Promisc: conf.PromiscMode, Gateways: gateways})
	if err != nil {
		return err
	}
	hostMAC, mac, err := bridge.Plug(conf.Bridge, port)
	if err != nil {
		return err
	}
	result.Interfaces = []*cni.Interface{
		{Name: conf.Bridge, Mac: bridgeMAC}, {Name: port.HostName, Mac: hostMAC}, {Name: c.IfName, Mac: mac, Sandbox: c.NetNS},
	}
	if !conf.IPMasq || len(masquerade) == 0 {
		return nil
	}
	return b.Ports.Add(hostport.Entry{Key: b.key(c), IP: port.Addresses[0].Addr(), Masquerade: masquerade})
}

// routes takes the result's routes into the port; one without a gateway goes through the first address's.
func routes(port *bridge.Port, result *cni.Result) error {
	for _, r := range result.Routes {
		dst, err := prefix(r.Dst)
		if err != nil {
			return err
		}
		gw, ok := netip.AddrFromSlice(r.GW)
		if !ok && len(result.IPs) > 0 {
			gw, _ = netip.AddrFromSlice(result.IPs[0].Gateway)
		}
		port.Routes = append(port.Routes, bridge.Route{Dst: dst, Gateway: gw.Unmap()})
	}
	return nil
}

// prefix reads an IPv4 address with its length.
func prefix(n net.IPNet) (netip.Prefix, error) {
	a, ok := netip.AddrFromSlice(n.IP)
	bits, _ := n.Mask.Size()
	if a = a.Unmap(); !ok || !a.Is4() {
		return netip.Prefix{}, cni.Error(cni.CodeUnsupportedField, "%s: the built-in plugin \"bridge\" has no IPv6 yet", n.String())
	}
	return netip.PrefixFrom(a, bits), nil
}

func ipNetOf(p netip.Prefix) *net.IPNet {
	n := ipNet(p)
	return &n
}

// key is where what the plugin publishes is recorded.
func (b *Bridge) key(c cni.Call) string { return Key(c.ContainerID, c.IfName) + "/bridge" }

// Del implements cni.Plugin.
func (b *Bridge) Del(ctx context.Context, c cni.Call) error {
	conf, err := b.conf(c)
	if err != nil {
		return err
	}
	if err := b.Ports.Delete(b.key(c)); err != nil {
		return err
	}
	if err := bridge.Unplug(veth.Name(c.ContainerID, c.IfName)); err != nil {
		return err
	}
	if conf.IPAM.Type == "" {
		return nil
	}
	_, err = b.Delegate(ctx, conf.IPAM.Type, c)
	return err
}

// Check implements cni.Plugin.
func (b *Bridge) Check(ctx context.Context, c cni.Call) error {
	conf, err := b.conf(c)
	if err != nil {
		return err
	}
	if _, err := net.InterfaceByName(veth.Name(c.ContainerID, c.IfName)); err != nil {
		return fmt.Errorf("port of container %s: %w", c.ContainerID, err)
	}
	if _, ok := b.Ports.Get(b.key(c)); conf.IPMasq && !ok {
		return fmt.Errorf("container %s is not masqueraded", c.ContainerID)
	}
	if conf.IPAM.Type == "" {
		return nil
	}
	_, err = b.Delegate(ctx, conf.IPAM.Type, c)
	return err
}

// Status implements cni.Plugin.
func (b *Bridge) Status(ctx context.Context, c cni.Call) error {
	conf, err := b.conf(c)
	if err != nil || conf.IPAM.Type == "" {
		return err
	}
	_, err = b.Delegate(ctx, conf.IPAM.Type, c)
	return err
}

// GC implements cni.Plugin. What the plugin itself made is collected by the engine, for all networks at once.
func (b *Bridge) GC(ctx context.Context, c cni.Call) error { return b.Status(ctx, c) }
