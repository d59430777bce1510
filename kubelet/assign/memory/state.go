package memory

import (
	"errors"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// state of the nodes, by number.
type state map[int]*nodeState

type nodeState struct {
	allocatable, free Amounts
	// blocks is how many there are on the node, and group the set of nodes that they are on.
	blocks int
	group  numa.Mask
}

// newState is that of the machine without pods.
func newState(machine numa.Machine, reserved map[int]Amounts) state {
	s := state{}
	for _, n := range machine {
		st := &nodeState{allocatable: Amounts{}, free: Amounts{}, group: numa.Of(n.ID)}
		left := n.Memory
		for size, count := range n.HugePages {
			name := v1.ResourceName(v1.ResourceHugePagesPrefix + resource.NewQuantity(int64(size), resource.BinarySI).String())
			st.allocatable[name] = less(size*count, reserved[n.ID][name])
			left = less(left, size*count)
		}
		st.allocatable[v1.ResourceMemory] = less(left, reserved[n.ID][v1.ResourceMemory])
		for kind, bytes := range st.allocatable {
			st.free[kind] = bytes
		}
		s[n.ID] = st
	}
	return s
}

func less(a, b uint64) uint64 { return a - min(a, b) }

// take takes a block off its nodes, one after the other. Nodes that are no more have nothing to give.
func (s state) take(b block) {
	left := b.Bytes
	for _, id := range b.Nodes.Nodes() {
		n := s[id]
		if n == nil {
			continue
		}
		n.blocks++
		n.group = b.Nodes
		part := min(n.free[b.Kind], left)
		n.free[b.Kind], left = n.free[b.Kind]-part, left-part
	}
}

// sum of what a set of nodes has, by kind.
func (s state) sum(m numa.Mask, of func(*nodeState) Amounts, want Amounts) Amounts {
	out := Amounts{}
	for _, id := range m.Nodes() {
		for kind := range want {
			if n := s[id]; n != nil {
				out[kind] += of(n)[kind]
			}
		}
	}
	return out
}

func (a Amounts) covers(want Amounts) bool {
	for kind, n := range want {
		if a[kind] < n {
			return false
		}
	}
	return true
}

func allocatable(n *nodeState) Amounts { return n.allocatable }
func free(n *nodeState) Amounts        { return n.free }

// hints are the sets of nodes on which so much can be had, with what can be used again on just those.
func (s state) hints(want Amounts, reuse map[numa.Mask]Amounts) []numa.Hint {
	ids := make([]int, 0, len(s))
	for id := range 64 {
		if s[id] != nil {
			ids = append(ids, id)
		}
	}
	least := len(ids)
	var list []numa.Hint
	numa.Subsets(ids, func(m numa.Mask) {
		if !s.sum(m, allocatable, want).covers(want) {
			return
		}
		least = min(least, m.Count())
		have := s.sum(m, free, want)
		for kind, n := range reuse[m] {
			have[kind] += n
		}
		if s.open(m) && have.covers(want) {
			list = append(list, numa.Hint{Nodes: m})
		}
	})
	for i := range list {
		list[i].Preferred = list[i].Nodes.Count() == least
	}
	return list
}

// open tells whether something may be put on just these nodes: one node only if it is in no group, several only if they are a
// group already, or nothing is on them.
func (s state) open(m numa.Mask) bool {
	for _, id := range m.Nodes() {
		n := s[id]
		if m.Count() == 1 && n.group.Count() > 1 {
			return false
		}
		if m.Count() > 1 && n.blocks > 0 && n.group != m {
			return false
		}
	}
	return true
}

// place chooses the nodes for a container, in upstream's way and with its words where it cannot be.
func (s state) place(want Amounts, reuse map[numa.Mask]Amounts, near numa.Mask) (numa.Mask, error) {
	list := s.hints(want, reuse)
	if near == 0 {
		if len(list) == 0 {
			return 0, errors.New("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")
		}
		near = narrowest(list, 0).Nodes
	}
	if !s.sum(near, free, want).covers(want) {
		h := narrowest(list, near)
		if h.Nodes == 0 {
			return 0, errors.New("[memorymanager] failed to find NUMA nodes to extend the current topology hint")
		}
		near = h.Nodes
	}
	for _, id := range near.Nodes() {
		if n := s[id]; near.Count() > 1 && n.blocks > 0 && n.group != near {
			return 0, errors.New("[memorymanager] preferred hint violates NUMA node allocation")
		}
	}
	return near, nil
}

// narrowest of the hints that include all nodes of a set: preferred ones first, then those with the fewest nodes, then those with
// the lowest numbers.
func narrowest(list []numa.Hint, with numa.Mask) numa.Hint {
	var best numa.Hint
	for _, h := range list {
		if h.Nodes&with != with {
			continue
		}
		if best.Nodes == 0 || (h.Preferred && !best.Preferred) || (h.Preferred == best.Preferred && h.Nodes.Narrower(best.Nodes)) {
			best = h
		}
	}
	return best
}
