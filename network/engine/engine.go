// Package engine implements the pod network of one node. It is where the parts meet: pinned namespaces, the CNI
// driver, the built-in plugins with their links and addresses, and the guards of the cluster's ranges.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/network"
	"github.com/skiff-node/skiff/network/bridge"
	"github.com/skiff-node/skiff/network/cni"
	"github.com/skiff-node/skiff/network/engine/plugins"
	"github.com/skiff-node/skiff/network/guard"
	"github.com/skiff-node/skiff/network/hostport"
	"github.com/skiff-node/skiff/network/ipam"
	"github.com/skiff-node/skiff/network/netns"
	"github.com/skiff-node/skiff/network/veth"
)

// interfaceName is what a sandbox's interface is called, as everywhere.
const interfaceName = "eth0"

// builtinNetwork is the configuration list of the built-in network.
const builtinNetwork = `{"cniVersion":"1.1.0","name":"skiff","plugins":[{"type":"skiff","capabilities":{"portMappings":true}}]}`

var _ network.Service = (*Engine)(nil)

// Engine is the pod network of one node. Setup comes first; Close lets go of everything and leaves all as it is,
// so that sandboxes live on.
type Engine struct {
	cfg Config
	log *slog.Logger

	mu     sync.Mutex // guards what Setup fills in, and changes of ranges
	up     *running
	ranges ranges
}

// running is what there is after Setup.
type running struct {
	addresses *ipam.Store
	host      *veth.Host
	ports     *hostport.Table
	builtin   map[string]cni.Plugin
	skiff     *plugins.Skiff
	hostLocal *plugins.HostLocal
	driver    *cni.Driver
	sweeper   *sweeper
}

// New checks the configuration. It changes nothing on the node.
func New(cfg Config) (*Engine, error) {
	cfg, err := cfg.complete()
	if err != nil {
		return nil, err
	}
	return &Engine{cfg: cfg, log: cfg.Log}, nil
}

// Setup prepares the node: the guards of the cluster's ranges first, then the built-in network. It finds what an
// earlier process left and takes it over. It may be called again after an error.
func (e *Engine) Setup(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.up != nil {
		return nil
	}
	for _, dir := range []string{e.cfg.RunDir, e.cfg.StateDir, e.cfg.nsDir(), e.cfg.cniDir()} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("set up the network: %w", err)
		}
	}
	if err := guard.Apply(e.guards()); err != nil {
		return fmt.Errorf("set up the network: %w", err)
	}
	r, err := loadRanges(e.cfg.rangesFile(), e.cfg.PodCIDRs)
	if err != nil {
		return fmt.Errorf("set up the network: %w", err)
	}
	up, err := e.start(r)
	if err != nil {
		return fmt.Errorf("set up the network: %w", errors.Join(err, up.close()))
	}
	e.up, e.ranges = up, r
	return nil
}

func (e *Engine) guards() guard.Config {
	return guard.Config{
		Cluster: e.cfg.ClusterCIDRs, Services: e.cfg.ServiceCIDRs, NodeIP: e.cfg.NodeIP,
		Local: e.cfg.LocalAddresses, Interface: e.cfg.ServiceInterface, Record: e.cfg.sysctls(),
	}
}

// start makes the parts of the built-in network. What it made before an error is in the value it returns.
func (e *Engine) start(r ranges) (up *running, err error) {
	up = &running{}
	if up.addresses, err = ipam.Open(ipam.Config{Path: e.cfg.journal(), Sets: r.sets()}); err != nil {
		return up, err
	}
	mtu := e.cfg.MTU
	if mtu == 0 {
		mtu = guard.MTU(e.cfg.NodeIP)
	}
	if up.host, err = veth.Ensure(veth.Config{Interface: e.cfg.Interface, MTU: mtu}); err != nil {
		return up, err
	}
	if err := up.host.SetAddresses(r.gateways(up.addresses)); err != nil {
		return up, err
	}
	up.sweeper = startSweeper(up.host.Sweep, e.log)
	up.ports, err = hostport.Open(hostport.Config{
		Name: e.cfg.Table, Dir: e.cfg.portsDir(), Services: e.cfg.ServiceInterface,
		Exempt: e.cfg.LocalAddresses, Ranges: r.masquerade(e.cfg.ClusterCIDRs), Log: e.log,
	})
	if err != nil {
		return up, err
	}
	e.plugins(up)
	up.driver, err = cni.New(cni.Config{
		ConfDir: e.cfg.ConfDir, BinDirs: e.cfg.BinDirs, CacheDir: e.cfg.cniDir(), Default: []byte(builtinNetwork),
		Builtin: up.builtin, Log: e.log,
	})
	return up, err
}

// plugins makes the plugin types that run in process.
func (e *Engine) plugins(up *running) {
	up.skiff = &plugins.Skiff{
		Addresses: up.addresses, Host: up.host, Ports: up.ports, Ready: e.ready, Discarded: up.sweeper.wake,
	}
	up.hostLocal = &plugins.HostLocal{Dir: e.cfg.networksDir()}
	up.builtin = map[string]cni.Plugin{
		"skiff": up.skiff, "host-local": up.hostLocal, "portmap": &plugins.Portmap{Ports: up.ports}, "loopback": plugins.Loopback{},
	}
	up.builtin["bridge"] = &plugins.Bridge{
		Ports: up.ports, Delegate: func(ctx context.Context, plugin string, c cni.Call) (*cni.Result, error) {
			return cni.Delegate(ctx, up.builtin, plugin, c)
		},
	}
}

// ready says why the built-in network cannot take a sandbox.
func (e *Engine) ready() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.ranges.Current) == 0 {
		return fmt.Errorf("%w: the node has no pod range yet; the kubelet announces it (CRI UpdateRuntimeConfig)", network.ErrNotReady)
	}
	return nil
}

// parts returns what Setup made.
func (e *Engine) parts() (*running, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.up == nil {
		return nil, fmt.Errorf("%w: it is not set up", network.ErrNotReady)
	}
	return e.up, nil
}

// NewNamespace implements network.Service.
func (e *Engine) NewNamespace(_ context.Context, sandboxID string) (string, error) {
	return netns.Create(e.cfg.nsDir(), sandboxID)
}

// AdoptNamespace implements network.Service.
func (e *Engine) AdoptNamespace(_ context.Context, sandboxID, file string) (string, error) {
	return netns.Adopt(e.cfg.nsDir(), sandboxID, file)
}

// RemoveNamespace implements network.Service.
func (e *Engine) RemoveNamespace(_ context.Context, path string) error {
	return netns.Remove(path)
}

// Attach implements network.Service.
func (e *Engine) Attach(ctx context.Context, s network.Sandbox) (network.Result, error) {
	up, err := e.parts()
	if err != nil {
		return network.Result{}, err
	}
	result, err := up.driver.Add(ctx, attachment(s))
	if err != nil {
		return network.Result{}, fmt.Errorf("attach sandbox %s: %w", s.ID, err)
	}
	return resultOf(result), nil
}

// Detach implements network.Service.
func (e *Engine) Detach(ctx context.Context, s network.Sandbox) error {
	up, err := e.parts()
	if err != nil {
		return err
	}
	if err := up.driver.Del(ctx, attachment(s)); err != nil {
		return fmt.Errorf("detach sandbox %s: %w", s.ID, err)
	}
	return nil
}

// Retain implements network.Service.
func (e *Engine) Retain(ctx context.Context, live []string) error {
	up, err := e.parts()
	if err != nil {
		return err
	}
	keep := make(map[string]bool, len(live))
	for _, id := range live {
		keep[id] = true
	}
	wanted := func(key string) bool { return keep[plugins.SandboxOf(key)] }
	errs := []error{
		up.driver.GC(ctx, keep, interfaceName),
		up.skiff.Collect(wanted),
		up.hostLocal.Collect(wanted),
		up.ports.Retain(wanted),
		removePairs(up.host, keep),
		e.removeNamespaces(keep),
		e.forgetFormer(up),
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("give back what no sandbox has: %w", err)
	}
	return nil
}

// removePairs deletes the veth pairs that belong to no sandbox of keep.
func removePairs(host *veth.Host, keep map[string]bool) error {
	wanted := map[string]bool{}
	for id := range keep {
		wanted[veth.Name(id, interfaceName)] = true
	}
	names, err := host.List()
	if err != nil {
		return err
	}
	for _, name := range names {
		if wanted[name] {
			continue
		}
		if err := host.Unplug(name); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) removeNamespaces(keep map[string]bool) error {
	ids, err := netns.List(e.cfg.nsDir())
	if err != nil {
		return err
	}
	for _, id := range ids {
		if keep[id] {
			continue
		}
		if err := netns.Remove(netns.Path(e.cfg.nsDir(), id)); err != nil {
			return err
		}
	}
	return nil
}

// Status implements network.Service. It is asked every few seconds, which makes it the place to notice that
// another program removed the nftables table.
func (e *Engine) Status(ctx context.Context) error {
	up, err := e.parts()
	if err != nil {
		return err
	}
	if err := up.ports.Repair(); err != nil {
		return fmt.Errorf("%w: %w", network.ErrNotReady, err)
	}
	if err := up.driver.Status(ctx); err != nil {
		if errors.Is(err, network.ErrNotReady) {
			return err
		}
		return fmt.Errorf("%w: %w", network.ErrNotReady, err)
	}
	return nil
}

// SetPodCIDRs implements network.Service.
func (e *Engine) SetPodCIDRs(_ context.Context, cidrs []netip.Prefix) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.up == nil {
		return fmt.Errorf("set pod ranges: %w: it is not set up", network.ErrNotReady)
	}
	next, err := e.ranges.with(cidrs)
	if err != nil {
		return fmt.Errorf("set pod ranges: %w", err)
	}
	if next.equal(e.ranges) {
		return nil
	}
	if err := next.save(e.cfg.rangesFile()); err != nil {
		return fmt.Errorf("set pod ranges: %w", err)
	}
	if err := e.up.addresses.SetSets(next.sets()); err != nil {
		return fmt.Errorf("set pod ranges: %w", err)
	}
	if err := e.up.host.SetAddresses(next.gateways(e.up.addresses)); err != nil {
		return fmt.Errorf("set pod ranges: %w", err)
	}
	if err := e.up.ports.SetRanges(next.masquerade(e.cfg.ClusterCIDRs)); err != nil {
		return fmt.Errorf("set pod ranges: %w", err)
	}
	if !slices.Equal(e.ranges.Current, next.Current) {
		e.log.Info("pod ranges changed", "from", e.ranges.Current, "to", next.Current)
	}
	e.ranges = next
	return nil
}

// forgetFormer forgets the former ranges of which no sandbox is left, and their gateways' addresses.
func (e *Engine) forgetFormer(up *running) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	next := e.ranges
	next.Former = slices.DeleteFunc(slices.Clone(next.Former), func(p netip.Prefix) bool { return !inUse(p, up.addresses.Holders()) })
	if err := next.save(e.cfg.rangesFile()); err != nil {
		return err
	}
	e.ranges = next
	if err := up.ports.SetRanges(next.masquerade(e.cfg.ClusterCIDRs)); err != nil {
		return err
	}
	return up.host.SetAddresses(next.gateways(up.addresses))
}

// Close lets go of the journal and of sockets. Everything on the node stays.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	up := e.up
	e.up = nil
	return up.close()
}

func (up *running) close() error {
	if up == nil {
		return nil
	}
	if up.sweeper != nil {
		up.sweeper.stop()
	}
	if up.host != nil {
		up.host.Close()
	}
	var errs []error
	if up.hostLocal != nil {
		errs = append(errs, up.hostLocal.Close())
	}
	if up.addresses != nil {
		errs = append(errs, up.addresses.Close())
	}
	return errors.Join(errs...)
}

// Teardown removes everything that Setup and Attach ever made on this node, and sets the host's settings back. It
// needs no Setup, and no other process may be using the directories.
func (e *Engine) Teardown(ctx context.Context) error {
	errs := []error{
		e.Close(),
		e.removeNamespaces(nil),
		veth.RemoveAll(e.cfg.Interface),
		bridge.RemoveAll(),
		hostport.Remove(e.cfg.Table),
		guard.Remove(e.guards()),
	}
	for _, path := range []string{e.cfg.cniDir(), e.cfg.portsDir(), e.cfg.StateDir} {
		errs = append(errs, os.RemoveAll(path))
	}
	if err := os.Remove(e.cfg.nsDir()); err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) {
		errs = append(errs, err) // not empty: it holds namespaces of other kinds, which are not the network's
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("tear down the network: %w", err)
	}
	return nil
}
