package engine

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
)

// Config is what the network of a node needs to know. Only RunDir and StateDir are required.
type Config struct {
	RunDir   string   // required: what a reboot ends (/run/skiff): namespaces, records of attachments
	StateDir string   // required: the address journal (/var/lib/skiff/network)
	ConfDir  string   // CNI configurations that replace the built-in network; default /etc/cni/net.d
	BinDirs  []string // CNI plugin executables; default /opt/cni/bin

	// PodCIDRs are the node's own ranges, until SetPodCIDRs gives others. Without them, and without ClusterCIDRs,
	// the node is on its own and uses 10.88.0.0/16; with ClusterCIDRs it waits for SetPodCIDRs.
	PodCIDRs     []netip.Prefix
	ClusterCIDRs []netip.Prefix // pod ranges of the whole cluster
	ServiceCIDRs []netip.Prefix

	// LocalAddresses are made local on this node, for what answers here for the whole cluster (node-local DNS).
	LocalAddresses []netip.Addr
	NodeIP         netip.Addr // source of the node's own packets to services

	Interface        string // has the address that is the sandboxes' gateway; default skiff0
	ServiceInterface string // packets to services are routed to it, and it has LocalAddresses; default skiff-svc
	Table            string // nftables table; default skiff-net
	MTU              int    // default: that of the interface with the node's address or default route
	Log              *slog.Logger
}

// standalone is the pod range of a node without a cluster.
var standalone = netip.MustParsePrefix("10.88.0.0/16")

func (c Config) complete() (Config, error) {
	var errs []error
	for name, v := range map[string]string{"RunDir": c.RunDir, "StateDir": c.StateDir} {
		if !filepath.IsAbs(v) {
			errs = append(errs, fmt.Errorf("network: %s %q is not an absolute path", name, v))
		}
	}
	for name, prefixes := range map[string][]netip.Prefix{
		"PodCIDRs": c.PodCIDRs, "ClusterCIDRs": c.ClusterCIDRs, "ServiceCIDRs": c.ServiceCIDRs,
	} {
		for _, p := range prefixes {
			if !p.IsValid() || p != p.Masked() {
				errs = append(errs, fmt.Errorf("network: %s: %s is not a range (did you mean %s?)", name, p, p.Masked()))
			}
		}
	}
	if len(c.PodCIDRs) == 0 && len(c.ClusterCIDRs) == 0 {
		c.PodCIDRs = []netip.Prefix{standalone}
	}
	c.Interface = or(c.Interface, "skiff0")
	c.ServiceInterface = or(c.ServiceInterface, "skiff-svc")
	c.Table = or(c.Table, "skiff-net")
	c.ConfDir = or(c.ConfDir, "/etc/cni/net.d")
	if len(c.BinDirs) == 0 {
		c.BinDirs = []string{"/opt/cni/bin"}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

func or(v, fallback string) string {
	if v == "" {
		return fallback
	}
	return v
}

// The places below RunDir and StateDir.
func (c Config) nsDir() string       { return filepath.Join(c.RunDir, "ns") }
func (c Config) cniDir() string      { return filepath.Join(c.RunDir, "cni") }
func (c Config) portsDir() string    { return filepath.Join(c.RunDir, "ports") }
func (c Config) sysctls() string     { return filepath.Join(c.RunDir, "sysctls.json") }
func (c Config) journal() string     { return filepath.Join(c.StateDir, "addresses.journal") }
func (c Config) networksDir() string { return filepath.Join(c.StateDir, "networks") }
func (c Config) rangesFile() string  { return filepath.Join(c.StateDir, "ranges.json") }
