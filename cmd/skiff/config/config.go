// Package config is the configuration of a skiff server: one YAML file whose every key has a default, merged with
// the flags of `skiff up` and `skiff server`.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
)

// Config is the whole configuration. The zero value of a field means its default (see Default).
type Config struct {
	// NodeName is the name under which the node registers: a DNS-1123 subdomain. Default: the host name in lower case.
	NodeName string `json:"nodeName,omitempty"`
	// NodeIP is the address of the node that others reach it by. Default: the source address of the default
	// route, or else the first global address of the machine.
	NodeIP string `json:"nodeIP,omitempty"`
	// PodCIDR is the range of pod addresses of the cluster. Default 10.42.0.0/16.
	PodCIDR string `json:"podCIDR,omitempty"`
	// ServiceCIDR is the range of service addresses. Default 10.43.0.0/16.
	ServiceCIDR string `json:"serviceCIDR,omitempty"`
	// ClusterDomain is the DNS domain of services. Default cluster.local.
	ClusterDomain string `json:"clusterDomain,omitempty"`
	// CgroupRoot is the cgroup below which pods and skiff's own processes live, as a path from the root of each
	// hierarchy. Default "/".
	CgroupRoot string `json:"cgroupRoot,omitempty"`
	// DisableAgent leaves the node out: the server is a control plane alone, for nodes elsewhere.
	DisableAgent bool `json:"disableAgent,omitempty"`

	Ports Ports `json:"ports,omitzero"`
	Dirs  Dirs  `json:"dirs,omitzero"`
}

// Ports are the TCP ports that the server listens on.
type Ports struct {
	API           int `json:"api,omitempty"`           // default 6443
	Kubelet       int `json:"kubelet,omitempty"`       // default 10250
	KubeletHealth int `json:"kubeletHealth,omitempty"` // default 10248, loopback only
	ProxyHealth   int `json:"proxyHealth,omitempty"`   // default 10256
}

// Dirs are the directories that skiff writes to.
type Dirs struct {
	Run    string `json:"run,omitempty"`    // default /run/skiff, lost at reboot
	State  string `json:"state,omitempty"`  // default /var/lib/skiff
	Log    string `json:"log,omitempty"`    // default /var/log/skiff
	Config string `json:"config,omitempty"` // default /etc/skiff
	Pods   string `json:"pods,omitempty"`   // default /var/log/pods, container logs
}

// Default is the configuration of a machine that says nothing.
func Default() Config {
	return Config{
		PodCIDR: "10.42.0.0/16", ServiceCIDR: "10.43.0.0/16", ClusterDomain: "cluster.local", CgroupRoot: "/",
		Ports: Ports{API: 6443, Kubelet: 10250, KubeletHealth: 10248, ProxyHealth: 10256},
		Dirs:  Dirs{Run: "/run/skiff", State: "/var/lib/skiff", Log: "/var/log/skiff", Config: "/etc/skiff", Pods: "/var/log/pods"},
	}
}

// Load reads a file over the defaults. An unknown key is an error that names it. A file that is not there is
// refused unless optional.
func Load(file string, optional bool) (Config, error) {
	c := Default()
	raw, err := os.ReadFile(file)
	if optional && errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("read configuration: %w", err)
	}
	// Keys are matched to the letter: the JSON decoder behind yaml.UnmarshalStrict would take podCidr for podCIDR.
	js, err := yaml.YAMLToJSONStrict(raw)
	if err != nil {
		return c, fmt.Errorf("configuration %s: %w", file, err)
	}
	strict, err := kjson.UnmarshalStrict(js, &c)
	if err := errors.Join(append(strict, err)...); err != nil {
		return c, fmt.Errorf("configuration %s: %w", file, err)
	}
	return c, nil
}

// Save writes the configuration, whole or not at all.
func (c Config) Save(file string) error {
	raw, err := yaml.Marshal(c)
	if err != nil {
		return err
	}
	return WriteFile(file, raw, 0o644)
}

// Complete fills in what depends on the machine and validates every field. The error names the field.
func (c *Config) Complete(m Machine) error {
	if c.NodeName == "" {
		c.NodeName = strings.ToLower(m.Hostname)
	}
	if c.NodeIP == "" {
		c.NodeIP = m.Address
	}
	return errors.Join(c.validate()...)
}

func (c *Config) validate() []error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if problems := validation.IsDNS1123Subdomain(c.NodeName); len(problems) > 0 {
		bad("nodeName", "%q: %s (set it with --node-name)", c.NodeName, problems[0])
	}
	if ip, err := netip.ParseAddr(c.NodeIP); err != nil || ip.IsUnspecified() || ip.IsLoopback() {
		bad("nodeIP", "%q is not an address that pods can reach (set it with --node-ip)", c.NodeIP)
	}
	for field, cidr := range map[string]string{"podCIDR": c.PodCIDR, "serviceCIDR": c.ServiceCIDR} {
		if p, err := netip.ParsePrefix(cidr); err != nil || p != p.Masked() || !p.Addr().Is4() || p.Bits() > 24 {
			bad(field, "%q is not an IPv4 range of /24 or more, written by its first address", cidr)
		}
	}
	if p, s := c.pods(), c.services(); p.IsValid() && s.IsValid() && p.Overlaps(s) {
		bad("serviceCIDR", "%s overlaps podCIDR %s", s, p)
	}
	if problems := validation.IsDNS1123Subdomain(c.ClusterDomain); len(problems) > 0 {
		bad("clusterDomain", "%q: %s", c.ClusterDomain, problems[0])
	}
	if !filepath.IsAbs(c.CgroupRoot) {
		bad("cgroupRoot", "%q is not an absolute path", c.CgroupRoot)
	}
	for _, p := range c.Ports.Named() {
		if p.Port < 1 || p.Port > 65535 {
			bad("ports."+p.Name, "%d is not a TCP port", p.Port)
		}
	}
	for field, dir := range map[string]string{"run": c.Dirs.Run, "state": c.Dirs.State, "log": c.Dirs.Log, "config": c.Dirs.Config, "pods": c.Dirs.Pods} {
		if !filepath.IsAbs(dir) {
			bad("dirs."+field, "%q is not an absolute path", dir)
		}
	}
	return errs
}

// NamedPort is a port and what it is for.
type NamedPort struct {
	Name string
	Port int
}

// Named lists the ports under their configuration keys.
func (p Ports) Named() []NamedPort {
	return []NamedPort{{"api", p.API}, {"kubelet", p.Kubelet}, {"kubeletHealth", p.KubeletHealth}, {"proxyHealth", p.ProxyHealth}}
}

func (c Config) pods() netip.Prefix     { p, _ := netip.ParsePrefix(c.PodCIDR); return p }
func (c Config) services() netip.Prefix { p, _ := netip.ParsePrefix(c.ServiceCIDR); return p }

// PodPrefix and ServicePrefix are the ranges of a validated configuration.
func (c Config) PodPrefix() netip.Prefix { return c.pods() }

// ServicePrefix is the service range of a validated configuration.
func (c Config) ServicePrefix() netip.Prefix { return c.services() }

// NodeAddr is the node's address of a validated configuration.
func (c Config) NodeAddr() netip.Addr { a, _ := netip.ParseAddr(c.NodeIP); return a }

// FirstNodePodCIDR is the /24 that the first node of a cluster gets.
func (c Config) FirstNodePodCIDR() netip.Prefix { return netip.PrefixFrom(c.pods().Addr(), 24) }

// APIServiceIP is the address of the Service "kubernetes": the first of the range.
func (c Config) APIServiceIP() netip.Addr { return c.services().Addr().Next() }

// DNSServiceIP is the address of the cluster's DNS: the tenth of the range.
func (c Config) DNSServiceIP() netip.Addr {
	a := c.services().Addr()
	for range 10 {
		a = a.Next()
	}
	return a
}

// Override takes every field that is set in over.
func (c *Config) Override(over Config) {
	for _, f := range []struct {
		to   *string
		from string
	}{
		{&c.NodeName, over.NodeName}, {&c.NodeIP, over.NodeIP}, {&c.PodCIDR, over.PodCIDR}, {&c.ServiceCIDR, over.ServiceCIDR},
		{&c.ClusterDomain, over.ClusterDomain}, {&c.CgroupRoot, over.CgroupRoot}, {&c.Dirs.State, over.Dirs.State}, {&c.Dirs.Run, over.Dirs.Run},
		{&c.Dirs.Log, over.Dirs.Log}, {&c.Dirs.Config, over.Dirs.Config}, {&c.Dirs.Pods, over.Dirs.Pods},
	} {
		if f.from != "" {
			*f.to = f.from
		}
	}
	c.DisableAgent = c.DisableAgent || over.DisableAgent
	if over.Ports.API != 0 {
		c.Ports.API = over.Ports.API
	}
	if over.Ports.Kubelet != 0 {
		c.Ports.Kubelet = over.Ports.Kubelet
	}
}

// DNSAddresses are the addresses, local on every node, on which the cluster's DNS answers: the node-local one and the
// DNS service's own.
func DNSAddresses(c Config) []netip.Addr {
	return []netip.Addr{netip.AddrFrom4([4]byte{169, 254, 20, 10}), c.DNSServiceIP()}
}
