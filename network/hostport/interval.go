package hostport

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
)

// comparePrefix orders prefixes by address, the shorter (wider) first.
func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 {
		return c
	}
	return a.Bits() - b.Bits()
}

// disjoint returns the IPv4 prefixes without those that lie in another: two prefixes either nest or do not meet.
func disjoint(prefixes []netip.Prefix) []netip.Prefix {
	var sorted, out []netip.Prefix
	for _, p := range prefixes {
		if p.IsValid() && p.Addr().Is4() {
			sorted = append(sorted, p.Masked())
		}
	}
	slices.SortFunc(sorted, comparePrefix)
	for _, p := range sorted {
		if n := len(out); n == 0 || !out[n-1].Overlaps(p) {
			out = append(out, p)
		}
	}
	return out
}

// intervals turns prefixes into the elements of an interval set: each start, and the address after each end,
// unless another interval starts there.
func intervals(prefixes []netip.Prefix) []nftables.SetElement {
	var elements []nftables.SetElement
	for _, p := range disjoint(prefixes) {
		start := p.Addr().AsSlice()
		if n := len(elements); n > 0 && slices.Equal(elements[n-1].Key, start) {
			elements = elements[:n-1]
		} else {
			elements = append(elements, nftables.SetElement{Key: start})
		}
		if end := after(p); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
	}
	return elements
}

// after is the address that follows the last one of the prefix; invalid at the end of the address space.
func after(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	return netip.AddrFrom4(b).Next()
}
