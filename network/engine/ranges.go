package engine

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"

	"github.com/skiff-node/skiff/network/hostport"
	"github.com/skiff-node/skiff/network/ipam"
)

// ranges are the node's pod ranges: those that addresses are given from, and those before, whose sandboxes may
// still live. They are kept on disk, because the kubelet announces them once and not again when only the CRI
// server restarts.
type ranges struct {
	Current []netip.Prefix `json:"current"`
	Former  []netip.Prefix `json:"former,omitempty"`
	// Announced is true once SetPodCIDRs gave them; until then the configuration decides.
	Announced bool `json:"announced"`
}

func loadRanges(path string, configured []netip.Prefix) (ranges, error) {
	var r ranges
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return r, fmt.Errorf("read the pod ranges: %w", err)
	}
	if err == nil {
		if err := json.Unmarshal(data, &r); err != nil {
			return r, fmt.Errorf("pod ranges %s: %w; it can be deleted when the kubelet is started again too", path, err)
		}
	}
	if !r.Announced {
		next, err := r.with(configured)
		next.Announced = false
		return next, errors.Join(err, next.save(path))
	}
	return r, nil
}

// with is the ranges after an announcement. Only IPv4 is used so far.
func (r ranges) with(cidrs []netip.Prefix) (ranges, error) {
	next := ranges{Announced: true}
	for _, p := range cidrs {
		if _, err := (ipam.Range{Subnet: p}).Normalize(); err != nil {
			return r, err
		}
		if p.Addr().Is4() {
			next.Current = append(next.Current, p.Masked())
		}
	}
	if len(cidrs) > 0 && len(next.Current) == 0 {
		return r, fmt.Errorf("%v holds no IPv4 range", cidrs)
	}
	for _, p := range append(slices.Clone(r.Former), r.Current...) {
		if !slices.Contains(next.Current, p) && !slices.Contains(next.Former, p) {
			next.Former = append(next.Former, p)
		}
	}
	return next, nil
}

func (r ranges) equal(o ranges) bool {
	return slices.Equal(r.Current, o.Current) && slices.Equal(r.Former, o.Former) && r.Announced == o.Announced
}

func (r ranges) save(path string) error {
	data, err := json.Marshal(r)
	if err == nil {
		err = os.WriteFile(path+".new", data, 0o600)
	}
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		return fmt.Errorf("write the pod ranges: %w", err)
	}
	return nil
}

// sets is what the address store gives out: one address from any of the current ranges.
func (r ranges) sets() [][]ipam.Range {
	var set []ipam.Range
	for _, p := range r.Current {
		set = append(set, ipam.Range{Subnet: p})
	}
	if len(set) == 0 {
		return nil
	}
	return [][]ipam.Range{set}
}

// gateways are the addresses of the host's interface: the first of each current range, and of each former one that a sandbox
// still has an address of.
func (r ranges) gateways(store *ipam.Store) []netip.Addr {
	var gws []netip.Addr
	for _, p := range r.Current {
		gws = append(gws, gateway(p))
	}
	holders := store.Holders()
	for _, p := range r.Former {
		if gw := gateway(p); !slices.Contains(gws, gw) && inUse(p, holders) {
			gws = append(gws, gw)
		}
	}
	return gws
}

// masquerade is what leaves the cluster with the node's address.
func (r ranges) masquerade(cluster []netip.Prefix) hostport.Ranges {
	return hostport.Ranges{Sources: append(slices.Clone(r.Current), r.Former...), Direct: cluster}
}

func inUse(p netip.Prefix, holders map[string][]netip.Addr) bool {
	for _, addrs := range holders {
		if slices.ContainsFunc(addrs, p.Contains) {
			return true
		}
	}
	return false
}

func gateway(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }
