package cpus

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// Hints tells where the container, or with nil the whole pod, could have its processors. What cannot be read is as good as not
// to be had; Allocate tells why.
func (a *Allocator) Hints(p *v1.Pod, c *v1.Container) numa.Hints {
	count := together(p)
	if c != nil {
		count = exclusive(p, c)
	}
	if count == 0 {
		return nil
	}
	impossible := numa.Hints{string(v1.ResourceCPU): {}}
	has, taken, err := a.known(p.UID)
	if err != nil {
		return impossible
	}
	free, again := a.Allocatable().Difference(taken), cpuset.New()
	if c == nil {
		for _, set := range has {
			again = again.Union(set)
		}
	} else if set, ok := has[c.Name]; ok {
		free, again = cpuset.New(), set
	} else {
		again = reusable(p, c.Name, has)
	}
	if again.Size() == count {
		free, again = again, cpuset.New()
	}
	return numa.Hints{string(v1.ResourceCPU): a.cfg.Topology.hints(free, again, count, a.cfg.Options)}
}

// hints tells on which sets of NUMA nodes so many processors could be had, all those included that are used again.
func (t Topology) hints(free, again cpuset.CPUSet, count int, o Options) []numa.Hint {
	var all numa.Mask
	for _, c := range t {
		all |= numa.Of(c.Node)
	}
	least := all.Count()
	list := []numa.Hint{}
	numa.Subsets(all.Nodes(), func(m numa.Mask) {
		inside := t.inNodes(m)
		if inside.Size() >= count {
			least = min(least, m.Count())
		}
		if again.IsSubsetOf(inside) && again.Size()+free.Intersection(inside).Size() >= count {
			list = append(list, numa.Hint{Nodes: m})
		}
	})
	for i := range list {
		m := list[i].Nodes
		list[i].Preferred = m.Count() == least || (o.BySocket && t.socketAligned(m, least))
	}
	return list
}

// socketAligned tells whether the nodes are of no more sockets than least nodes need.
func (t Topology) socketAligned(m numa.Mask, least int) bool {
	perSocket := t.count(byNode) / t.count(bySocket)
	if perSocket == 0 {
		return false
	}
	sockets := map[int]bool{}
	for _, c := range t {
		if m.Has(c.Node) {
			sockets[c.Socket] = true
		}
	}
	return len(sockets) == (least+perSocket-1)/perSocket
}
