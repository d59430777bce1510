package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/skiff-node/skiff/network/cni"
	"github.com/skiff-node/skiff/network/engine/plugins"
	"github.com/skiff-node/skiff/network/guard"
	"github.com/skiff-node/skiff/network/hostport"
	"github.com/skiff-node/skiff/network/ipam"
	"github.com/skiff-node/skiff/network/veth"
)

// Standalone is the built-in network as the plugin type "skiff-cni": every call takes the state from disk, waits
// for other calls of the same network, and leaves it behind. A node whose engine runs has no use for it.
type Standalone struct{}

var _ cni.Plugin = Standalone{}

// standaloneConf is the plugin's configuration.
type standaloneConf struct {
	Name         string         `json:"name"`
	Ranges       []netip.Prefix `json:"ranges"`       // required: the node's own ranges
	ClusterCIDRs []netip.Prefix `json:"clusterCIDRs"` // not masqueraded, and kept on the node while nobody owns them
	Interface    string         `json:"interface"`
	MTU          int            `json:"mtu"`
	DataDir      string         `json:"dataDir"` // of the address journal
	RunDir       string         `json:"runDir"`  // of what must not outlive a boot
}

func parseStandalone(c cni.Call) (standaloneConf, error) {
	if k := cni.UnknownKey(c.Conf, "ranges", "clusterCIDRs", "interface", "mtu", "dataDir", "runDir"); k != "" {
		return standaloneConf{}, cni.Error(cni.CodeUnsupportedField, "skiff-cni: the key %q is unknown", k)
	}
	conf := standaloneConf{Interface: "skiff0", DataDir: "/var/lib/cni/skiff", RunDir: "/run/skiff-cni"}
	if err := c.Decode(&conf); err != nil {
		return conf, err
	}
	if len(conf.Ranges) == 0 {
		return conf, cni.Error(cni.CodeInvalidConfig, `skiff-cni: the key "ranges" is missing: name this node's range of addresses, as in ["10.88.0.0/16"]`)
	}
	return conf, nil
}

// table is the network's nftables table: several networks may live on a node.
func (c standaloneConf) table() string { return "skiff-cni-" + c.Name }

// with runs fn with the network's plugin, alone among the calls of the network.
func (c standaloneConf) with(fn func(*plugins.Skiff) error) (err error) {
	r, err := ranges{}.with(c.Ranges)
	if err != nil {
		return cni.Error(cni.CodeInvalidConfig, "skiff-cni: ranges: %v", err)
	}
	store, err := ipam.Open(ipam.Config{Path: filepath.Join(c.DataDir, c.Name+".journal"), Sets: r.sets(), Wait: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	if err := guard.Forward(filepath.Join(c.RunDir, "sysctls.json")); err != nil {
		return err
	}
	if err := guard.Unreachable(c.ClusterCIDRs); err != nil {
		return err
	}
	mtu := c.MTU
	if mtu == 0 {
		mtu = guard.MTU(netip.Addr{})
	}
	host, err := veth.Ensure(veth.Config{Interface: c.Interface, MTU: mtu})
	if err != nil {
		return err
	}
	defer host.Close()
	if err := host.AddAddresses(r.gateways(store)); err != nil {
		return err
	}
	ports, err := hostport.Open(hostport.Config{
		Name: c.table(), Dir: filepath.Join(c.RunDir, c.Name), Ranges: r.masquerade(c.ClusterCIDRs), Reuse: true,
	})
	if err != nil {
		return err
	}
	return fn(&plugins.Skiff{Addresses: store, Host: host, Ports: ports, Ready: func() error { return nil }})
}

// call reads the configuration and runs fn with the network's plugin.
func call(c cni.Call, fn func(*plugins.Skiff) error) error {
	conf, err := parseStandalone(c)
	if err != nil {
		return err
	}
	if err := conf.with(fn); err != nil {
		return fmt.Errorf("network %q: %w", conf.Name, err)
	}
	return nil
}

// Add implements cni.Plugin.
func (Standalone) Add(ctx context.Context, c cni.Call) (result *cni.Result, err error) {
	err = call(c, func(s *plugins.Skiff) error {
		result, err = s.Add(ctx, c)
		return err
	})
	return result, err
}

// Del implements cni.Plugin.
func (Standalone) Del(ctx context.Context, c cni.Call) error {
	return call(c, func(s *plugins.Skiff) error { return s.Del(ctx, c) })
}

// Check implements cni.Plugin.
func (Standalone) Check(ctx context.Context, c cni.Call) error {
	return call(c, func(s *plugins.Skiff) error { return s.Check(ctx, c) })
}

// GC implements cni.Plugin.
func (Standalone) GC(ctx context.Context, c cni.Call) error {
	return call(c, func(s *plugins.Skiff) error { return s.GC(ctx, c) })
}

// Status implements cni.Plugin. The network can serve when its configuration is sound.
func (Standalone) Status(_ context.Context, c cni.Call) error {
	conf, err := parseStandalone(c)
	if err != nil {
		return err
	}
	if _, err := (ranges{}).with(conf.Ranges); err != nil {
		return cni.Error(cni.CodeNotAvailable, "skiff-cni: ranges: %v", err)
	}
	return nil
}
