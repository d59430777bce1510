package cpus

import (
	"maps"
	"math"
	"slices"

	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// split is one way to divide processors among NUMA nodes (KEP-2902).
type split struct {
	nodes []int
	// each node gives so many, and those in more give further groups of them, in turn, until there are enough.
	each int
	more []int
	// balance is how unevenly what is left is divided then: 0 is best.
	balance   float64
	oneSocket bool
}

// spreader divides processors among NUMA nodes.
type spreader struct {
	t Topology
	o Options
	// order of the nodes: those with the least free first.
	order []int
	free  map[int]cpuset.CPUSet
	// group is how many are given together: the threads of a core where cores are not shared.
	group, count int
}

// spread takes processors evenly from as few NUMA nodes as have them, instead of filling one after the other. There are enough.
func (t Topology) spread(free cpuset.CPUSet, count int, o Options) cpuset.CPUSet {
	s := &spreader{t: t, o: o, free: map[int]cpuset.CPUSet{}, group: 1, count: count}
	if o.FullCores {
		s.group = t.perCore()
	}
	if count == 0 || count%s.group != 0 {
		return t.pack(free, count, o)
	}
	levels := []level{byNode}
	if t.count(bySocket) < t.count(byNode) {
		levels = []level{bySocket, byNode}
	}
	for _, g := range t.groups(free, levels...) {
		node := t[slices.IndexFunc(t, func(c CPU) bool { return c.ID == g.all.List()[0] })].Node
		s.order, s.free[node] = append(s.order, node), g.free
	}
	least, most := s.sizes()
	for size := least; size <= most; size++ {
		if best := s.best(size); best != nil {
			return s.take(best)
		}
	}
	return t.pack(free, count, o)
}

// sizes bounds how many nodes are needed.
func (s *spreader) sizes() (least, most int) {
	up := func(a, b int) int { return (a-1)/b + 1 }
	perNode := up(up(len(s.t), s.group), s.t.count(byNode))
	groups := up(s.count, s.group)
	return up(groups, perNode), min(groups, len(s.order))
}

// best of all splits among so many nodes; nil when there is none.
func (s *spreader) best(size int) *split {
	var best *split
	choose(s.order, size, func(nodes []int) bool {
		next := s.split(nodes)
		switch {
		case next == nil:
		case best == nil, s.o.BySocket && next.oneSocket && !best.oneSocket,
			next.balance < best.balance && (!s.o.BySocket || next.oneSocket == best.oneSocket):
			best = next
		}
		return best == nil || best.balance != 0 || (s.o.BySocket && !best.oneSocket)
	})
	return best
}

// split divides evenly, and what does not divide evenly so that what is left is balanced best; nil when the nodes have too few.
func (s *spreader) split(nodes []int) *split {
	all, groups := 0, 0
	each := s.count / len(nodes) / s.group * s.group
	for _, n := range nodes {
		have := s.free[n].Size()
		all, groups = all+have, groups+have/s.group
		if s.o.BySocket {
			each = min(each, have/s.group*s.group)
		}
	}
	if all < s.count || groups*s.group < s.count {
		return nil
	}
	left := map[int]int{}
	for _, n := range s.order {
		left[n] = s.free[n].Size()
	}
	var candidates []int
	for _, n := range nodes {
		if left[n] -= each; left[n] < 0 {
			return nil
		}
		if left[n] >= s.group {
			candidates = append(candidates, n)
		}
	}
	out := &split{nodes: nodes, each: each, balance: math.Inf(1), oneSocket: s.oneSocket(nodes)}
	rest := s.count - each*len(nodes)
	if rest == 0 {
		out.balance = deviation(left)
		return out
	}
	for size := len(candidates); size > 0; size-- {
		choose(candidates, size, func(more []int) bool {
			if b, ok := s.after(left, more, rest); ok && b < out.balance {
				out.balance, out.more = b, more
			}
			return true
		})
	}
	if out.more == nil {
		return nil
	}
	return out
}

// after is the balance when the nodes in more have given the rest.
func (s *spreader) after(left map[int]int, more []int, rest int) (balance float64, ok bool) {
	left = maps.Clone(left)
	for progress := true; rest > 0; {
		if !progress {
			return 0, false
		}
		progress = false
		for _, n := range more {
			if rest > 0 && left[n] >= s.group {
				left[n], rest, progress = left[n]-s.group, rest-s.group, true
			}
		}
	}
	return deviation(left), true
}

func (s *spreader) oneSocket(nodes []int) bool {
	mask, sockets := numa.Of(nodes...), map[int]bool{}
	for _, c := range s.t {
		if mask.Has(c.Node) {
			sockets[c.Socket] = true
		}
	}
	return len(sockets) == 1
}

// take carries a split out.
func (s *spreader) take(way *split) cpuset.CPUSet {
	taken := cpuset.New()
	give := func(node, count int) {
		set := s.t.pack(s.free[node], count, Options{AcrossCores: s.o.AcrossCores})
		taken, s.free[node] = taken.Union(set), s.free[node].Difference(set)
	}
	for _, n := range way.nodes {
		give(n, way.each)
	}
	for i := 0; taken.Size() < s.count; i = (i + 1) % len(way.more) {
		if n := way.more[i]; s.free[n].Size() >= s.group {
			give(n, s.group)
		}
	}
	return taken
}

// deviation is the standard deviation, in thousandths.
func deviation(of map[int]int) float64 {
	round := func(x float64) float64 { return math.Round(x*1000) / 1000 }
	mean, sum := 0.0, 0.0
	for _, x := range of {
		mean += float64(x)
	}
	mean = round(mean / float64(len(of)))
	for _, x := range of {
		sum += (float64(x) - mean) * (float64(x) - mean)
	}
	return round(math.Sqrt(sum / float64(len(of))))
}

// choose calls f with each choice of so many, in the order of the list, until f returns false.
func choose(from []int, size int, f func([]int) bool) bool {
	if size == 0 {
		return f(nil)
	}
	for i := 0; i <= len(from)-size; i++ {
		more := choose(from[i+1:], size-1, func(rest []int) bool { return f(append([]int{from[i]}, rest...)) })
		if !more {
			return false
		}
	}
	return true
}
