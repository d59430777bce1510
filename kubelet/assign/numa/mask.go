// Package numa aligns what a container gets of the machine on NUMA nodes (topology manager, KEP-693).
//
// Whoever has something to give says on which sets of nodes it could be had (Hints). Merge finds the one set that suits them
// all best, and by the policy whether that is good enough. All of it is pure; Read reads the machine once.
package numa

import (
	"math/bits"

	"k8s.io/utils/cpuset"
)

// Mask is a set of NUMA nodes by their numbers, which are at most 63.
type Mask uint64

// Of is the set of these nodes. Numbers that cannot be a node's are left out.
func Of(nodes ...int) Mask {
	var m Mask
	for _, n := range nodes {
		if n >= 0 && n < 64 {
			m |= 1 << n
		}
	}
	return m
}

// Has tells whether the node is in the set.
func (m Mask) Has(node int) bool { return m&Of(node) != 0 }

// Count of nodes.
func (m Mask) Count() int { return bits.OnesCount64(uint64(m)) }

// Nodes in ascending order.
func (m Mask) Nodes() []int {
	var list []int
	for rest := uint64(m); rest != 0; rest &= rest - 1 {
		list = append(list, bits.TrailingZeros64(rest))
	}
	return list
}

// String is the set as the kernel writes it: 0-1,3.
func (m Mask) String() string { return cpuset.New(m.Nodes()...).String() }

// Narrower tells whether m has fewer nodes, or as many of lower numbers.
func (m Mask) Narrower(than Mask) bool {
	if m.Count() == than.Count() {
		return m < than
	}
	return m.Count() < than.Count()
}

// Subsets calls f with each set of these nodes but the empty one, small ones first.
func Subsets(nodes []int, f func(Mask)) {
	var choose func(from, more int, m Mask)
	choose = func(from, more int, m Mask) {
		if more == 0 {
			f(m)
			return
		}
		for i := from; i <= len(nodes)-more; i++ {
			choose(i+1, more-1, m|Of(nodes[i]))
		}
	}
	for size := 1; size <= len(nodes); size++ {
		choose(0, size, 0)
	}
}
