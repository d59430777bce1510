package plugins

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"

	"github.com/skiff-node/skiff/network/cni"
	"github.com/skiff-node/skiff/network/ipam"
)

// journalSuffix ends the name of a network's address journal.
const journalSuffix = ".journal"

// HostLocal is the reference plugin "host-local" with its common keys, over a journal per network. Close it.
type HostLocal struct {
	Dir string // of the journals

	mu   sync.Mutex
	open map[string]*pool
}

type pool struct {
	*ipam.Store
	sets [][]ipam.Range
}

// hostLocalRange is an entry of "ranges", and the older form with one range beside the type.
type hostLocalRange struct {
	Subnet     netip.Prefix `json:"subnet"`
	RangeStart netip.Addr   `json:"rangeStart"`
	RangeEnd   netip.Addr   `json:"rangeEnd"`
	Gateway    netip.Addr   `json:"gateway"`
}

type hostLocalConf struct {
	Name string `json:"name"`
	IPAM struct {
		hostLocalRange
		Ranges [][]hostLocalRange `json:"ranges"`
		Routes []struct {
			Dst netip.Prefix `json:"dst"`
			GW  netip.Addr   `json:"gw"`
		} `json:"routes"`
	} `json:"ipam"`
	RuntimeConfig struct {
		IPs []string `json:"ips"`
	} `json:"runtimeConfig"`
}

// Supports implements cni.Partial.
func (h *HostLocal) Supports(conf []byte) error {
	var c struct {
		IPAM         json.RawMessage `json:"ipam"`
		Capabilities map[string]bool `json:"capabilities"`
	}
	if err := json.Unmarshal(conf, &c); err != nil {
		return err
	}
	if k := cni.UnknownKey(c.IPAM, "ranges", "routes", "subnet", "rangeStart", "rangeEnd", "gateway"); k != "" {
		return fmt.Errorf("it does not honour the key \"ipam.%s\"", k)
	}
	if c.Capabilities["ipRanges"] {
		return errors.New(`it does not have the capability "ipRanges"`)
	}
	var hc hostLocalConf
	if err := json.Unmarshal(conf, &hc); err != nil {
		return err
	}
	for _, set := range hc.sets() {
		for _, r := range set {
			if r.Subnet.IsValid() && !r.Subnet.Addr().Is4() {
				return fmt.Errorf("\"ipam.ranges\": %s: it has no IPv6 yet", r.Subnet)
			}
		}
	}
	return nil
}

func (c hostLocalConf) sets() [][]ipam.Range {
	all := c.IPAM.Ranges
	if c.IPAM.Subnet.IsValid() {
		all = append([][]hostLocalRange{{c.IPAM.hostLocalRange}}, all...)
	}
	var sets [][]ipam.Range
	for _, ranges := range all {
		var set []ipam.Range
		for _, r := range ranges {
			set = append(set, ipam.Range{Subnet: r.Subnet, Start: r.RangeStart, End: r.RangeEnd, Gateway: r.Gateway})
		}
		sets = append(sets, set)
	}
	return sets
}

// conf reads the configuration and opens the network's journal.
func (h *HostLocal) conf(c cni.Call) (hostLocalConf, *pool, error) {
	var conf hostLocalConf
	if err := c.Decode(&conf); err != nil {
		return conf, nil, err
	}
	sets := conf.sets()
	if len(sets) == 0 {
		return conf, nil, cni.Error(cni.CodeInvalidConfig, `host-local: the key "ipam.ranges" is missing`)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	p, err := h.pool(conf.Name, sets)
	if err != nil {
		return conf, nil, cni.Error(cni.CodeInvalidConfig, "host-local: %v", err)
	}
	return conf, p, nil
}

func (h *HostLocal) pool(name string, sets [][]ipam.Range) (*pool, error) {
	if p, ok := h.open[name]; ok {
		if reflect.DeepEqual(p.sets, sets) || sets == nil {
			return p, nil
		}
		p.sets = sets
		return p, p.SetSets(sets)
	}
	store, err := ipam.Open(ipam.Config{Path: filepath.Join(h.Dir, name+journalSuffix), Sets: sets})
	if err != nil {
		return nil, err
	}
	if h.open == nil {
		h.open = map[string]*pool{}
	}
	h.open[name] = &pool{Store: store, sets: sets}
	return h.open[name], nil
}

// Add implements cni.Plugin.
func (h *HostLocal) Add(_ context.Context, c cni.Call) (*cni.Result, error) {
	conf, p, err := h.conf(c)
	if err != nil {
		return nil, err
	}
	want, err := wanted(conf, c)
	if err != nil {
		return nil, err
	}
	addrs, err := p.Allocate(Key(c.ContainerID, c.IfName), want...)
	if err != nil {
		return nil, err
	}
	result := &cni.Result{CNIVersion: "1.1.0"}
	for _, a := range addrs {
		r, ok := p.Range(a)
		if !ok {
			return nil, fmt.Errorf("host-local: container %s holds %s, which is in no range any more", c.ContainerID, a)
		}
		result.IPs = append(result.IPs, &cni.IPConfig{
			Address: ipNet(netip.PrefixFrom(a, r.Subnet.Bits())), Gateway: r.Gateway.AsSlice(),
		})
	}
	for _, r := range conf.IPAM.Routes {
		result.Routes = append(result.Routes, &cni.Route{Dst: ipNet(r.Dst), GW: r.GW.AsSlice()})
	}
	return result, nil
}

// wanted are the addresses asked for by the capability "ips" and by the argument IP.
func wanted(conf hostLocalConf, c cni.Call) ([]netip.Addr, error) {
	texts := conf.RuntimeConfig.IPs
	if arg := c.Arg("IP"); arg != "" {
		texts = append(texts, arg)
	}
	var all []netip.Addr
	for _, text := range texts {
		bare, _, _ := strings.Cut(text, "/")
		a, err := netip.ParseAddr(bare)
		if err != nil {
			return nil, cni.Error(cni.CodeInvalidConfig, "host-local: %q is no address", text)
		}
		all = append(all, a)
	}
	return all, nil
}

// Del implements cni.Plugin.
func (h *HostLocal) Del(_ context.Context, c cni.Call) error {
	_, p, err := h.conf(c)
	if err != nil {
		return err
	}
	return p.Release(Key(c.ContainerID, c.IfName))
}

// Check implements cni.Plugin.
func (h *HostLocal) Check(_ context.Context, c cni.Call) error {
	_, p, err := h.conf(c)
	if err == nil && len(p.Get(Key(c.ContainerID, c.IfName))) == 0 {
		err = fmt.Errorf("host-local: container %s holds no address for %s", c.ContainerID, c.IfName)
	}
	return err
}

// Status implements cni.Plugin.
func (h *HostLocal) Status(_ context.Context, c cni.Call) error {
	_, _, err := h.conf(c)
	return err
}

// GC implements cni.Plugin.
func (h *HostLocal) GC(_ context.Context, c cni.Call) error {
	_, p, err := h.conf(c)
	if err != nil {
		return err
	}
	valid, err := c.Valid()
	if err != nil {
		return err
	}
	_, err = p.Retain(func(key string) bool { return valid[key] })
	return err
}

// Collect gives back the addresses of every key that keep does not want, of all networks that ever were.
func (h *HostLocal) Collect(keep func(key string) bool) error {
	files, err := os.ReadDir(h.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list address journals: %w", err)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range files {
		name, ok := strings.CutSuffix(f.Name(), journalSuffix)
		if !ok {
			continue
		}
		p, err := h.pool(name, nil)
		if err != nil {
			return err
		}
		if _, err := p.Retain(keep); err != nil {
			return err
		}
	}
	return nil
}

// Close lets go of the journals.
func (h *HostLocal) Close() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	var errs []error
	for _, p := range h.open {
		errs = append(errs, p.Close())
	}
	h.open = nil
	return errors.Join(errs...)
}
