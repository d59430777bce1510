package cni

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sort"
	"sync"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
)

// Config says where configurations and plugins are.
type Config struct {
	ConfDir  string   // network configurations; the first in order of file names is used
	BinDirs  []string // plugin executables
	CacheDir string   // libcni's records of attachments; must not outlive a boot
	Builtin  map[string]Plugin
	Default  []byte // the configuration list that is used while ConfDir holds none
	Log      *slog.Logger
}

// Driver attaches containers to the network that is configured. It is safe for concurrent use; calls for the
// same container are the caller's to serialise.
type Driver struct {
	cfg      Config
	lib      *libcni.CNIConfig
	fallback *libcni.NetworkConfigList
	dir      *directory

	mu       sync.Mutex
	attached map[string][]*libcni.NetworkAttachment // by container id
}

// Attachment is what a container is attached with.
type Attachment struct {
	ContainerID  string
	NetNS        string
	IfName       string
	Args         [][2]string
	Capabilities map[string]any // runtimeConfig of the plugins that ask for it
}

// New reads the attachments that are recorded in CacheDir.
func New(cfg Config) (*Driver, error) {
	fallback, err := libcni.NetworkConfFromBytes(cfg.Default)
	if err != nil {
		return nil, fmt.Errorf("built-in network configuration: %w", err)
	}
	d := &Driver{
		cfg: cfg, fallback: fallback, dir: &directory{path: cfg.ConfDir},
		lib:      libcni.NewCNIConfigWithCacheDir(cfg.BinDirs, cfg.CacheDir, newExecutor(cfg.Builtin)),
		attached: map[string][]*libcni.NetworkAttachment{},
	}
	all, err := d.lib.GetCachedAttachments("")
	if err != nil {
		return nil, fmt.Errorf("read the records of CNI attachments: %w", err)
	}
	for _, a := range all {
		d.attached[a.ContainerID] = append(d.attached[a.ContainerID], a)
	}
	return d, nil
}

// network returns the configuration in force.
func (d *Driver) network() (*libcni.NetworkConfigList, error) {
	list, err := d.dir.load(d.cfg.Log)
	if err != nil || list != nil {
		return list, err
	}
	return d.fallback, nil
}

// Network returns the name of the configured network, and whether it is the built-in one.
func (d *Driver) Network() (name string, builtin bool, err error) {
	list, err := d.network()
	if err != nil {
		return "", false, err
	}
	return list.Name, list == d.fallback, nil
}

// Status asks each plugin of the configured network whether it can serve.
func (d *Driver) Status(ctx context.Context) error {
	list, err := d.network()
	if err != nil {
		return err
	}
	for _, p := range list.Plugins {
		if _, err := newExecutor(d.cfg.Builtin).FindInPath(p.Network.Type, d.cfg.BinDirs); err != nil {
			return fmt.Errorf("network %q: %w", list.Name, err)
		}
	}
	if err := d.lib.GetStatusNetworkList(ctx, list); err != nil {
		return fmt.Errorf("network %q: %w", list.Name, err)
	}
	return nil
}

// Add attaches the container. When it fails, what the plugins had done is undone.
func (d *Driver) Add(ctx context.Context, a Attachment) (*Result, error) {
	list, err := d.network()
	if err != nil {
		return nil, err
	}
	rt := &libcni.RuntimeConf{
		ContainerID: a.ContainerID, NetNS: a.NetNS, IfName: a.IfName, Args: a.Args, CapabilityArgs: a.Capabilities,
	}
	raw, err := d.lib.AddNetworkList(ctx, list, rt)
	if err == nil {
		var result *Result
		if result, err = types100.GetResult(raw); err == nil {
			d.remember(list, rt)
			return result, nil
		}
	}
	err = fmt.Errorf("network %q: %w", list.Name, err)
	if undo := d.lib.DelNetworkList(context.WithoutCancel(ctx), list, rt); undo != nil {
		err = errors.Join(err, fmt.Errorf("undo: %w", undo))
	}
	return nil, err
}

func (d *Driver) remember(list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.attached[rt.ContainerID] = append(d.attached[rt.ContainerID], &libcni.NetworkAttachment{
		ContainerID: rt.ContainerID, Network: list.Name, IfName: rt.IfName, Config: list.Bytes,
		NetNS: rt.NetNS, CniArgs: rt.Args, CapabilityArgs: rt.CapabilityArgs,
	})
}

// Del detaches the container from every network it was attached to, with the configuration of that time. One of
// which nothing is recorded is detached from the configured network, because the record may have been lost.
func (d *Driver) Del(ctx context.Context, a Attachment) error {
	d.mu.Lock()
	known := append([]*libcni.NetworkAttachment(nil), d.attached[a.ContainerID]...)
	d.mu.Unlock()
	if len(known) == 0 {
		list, err := d.network()
		if err != nil {
			return nil // nothing is recorded and nothing is configured
		}
		rt := &libcni.RuntimeConf{
			ContainerID: a.ContainerID, NetNS: present(a.NetNS), IfName: a.IfName, Args: a.Args, CapabilityArgs: a.Capabilities,
		}
		return d.delete(ctx, list, rt)
	}
	for _, k := range known {
		if err := d.deleteKnown(ctx, k); err != nil {
			return err
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.attached, a.ContainerID)
	return nil
}

func (d *Driver) deleteKnown(ctx context.Context, k *libcni.NetworkAttachment) error {
	list, err := libcni.NetworkConfFromBytes(k.Config)
	if err != nil {
		return fmt.Errorf("recorded configuration of network %q: %w", k.Network, err)
	}
	return d.delete(ctx, list, &libcni.RuntimeConf{
		ContainerID: k.ContainerID, NetNS: present(k.NetNS), IfName: k.IfName, Args: k.CniArgs, CapabilityArgs: k.CapabilityArgs,
	})
}

func (d *Driver) delete(ctx context.Context, list *libcni.NetworkConfigList, rt *libcni.RuntimeConf) error {
	if err := d.lib.DelNetworkList(ctx, list, rt); err != nil {
		return fmt.Errorf("network %q: %w", list.Name, err)
	}
	return nil
}

// present is the path, or "" when nothing is there: what CNI_NETNS is to be in a DEL after the namespace is gone.
func present(path string) string {
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// GC detaches every container that is not in live, and lets the plugins of the configured network collect what
// else they find (specification section 2, "GC"). A live container of which nothing is recorded counts as attached
// by ifName.
func (d *Driver) GC(ctx context.Context, live map[string]bool, ifName string) error {
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}}
	for id := range live {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: ifName})
	}
	d.mu.Lock()
	var dead []string
	for id, list := range d.attached {
		if !live[id] {
			dead = append(dead, id)
			continue
		}
		for _, a := range list {
			if a.IfName != ifName {
				args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: id, IfName: a.IfName})
			}
		}
	}
	d.mu.Unlock()
	sort.Strings(dead)
	var errs []error
	for _, id := range dead {
		errs = append(errs, d.Del(ctx, Attachment{ContainerID: id}))
	}
	if list, err := d.network(); err == nil {
		errs = append(errs, d.lib.GCNetworkList(ctx, list, args))
	}
	return errors.Join(errs...)
}
