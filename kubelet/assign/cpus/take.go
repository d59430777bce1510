package cpus

import (
	"fmt"

	"k8s.io/utils/cpuset"
)

// taker takes processors, group by group.
type taker struct {
	t           Topology
	free, taken cpuset.CPUSet
	needed      int
}

// Take chooses count of the free processors as upstream does: whole NUMA nodes and sockets while they fit, then whole cores, then
// single threads, of cores that are in use already where there are any. Options change that.
func (t Topology) Take(free cpuset.CPUSet, count int, o Options) (cpuset.CPUSet, error) {
	if free.Size() < count {
		return cpuset.New(), fmt.Errorf("not enough cpus available to satisfy request: requested=%d, available=%d", count, free.Size())
	}
	if o.AcrossNUMA {
		return t.spread(free, count, o), nil
	}
	return t.pack(free, count, o), nil
}

// pack takes processors close together. There are enough of them.
func (t Topology) pack(free cpuset.CPUSet, count int, o Options) cpuset.CPUSet {
	k := &taker{t: t, free: free, taken: cpuset.New(), needed: count}
	levels := t.levels()
	k.whole(levels[:1]...)
	k.whole(levels[:2]...)
	if o.ByCache {
		k.caches(levels)
	}
	if o.AcrossCores {
		k.threads(k.t.aboveCores()...)
	} else {
		k.whole(levels...)
		k.threads(levels...)
	}
	return k.taken
}

func (k *taker) take(set cpuset.CPUSet) {
	k.taken, k.free = k.taken.Union(set), k.free.Difference(set)
	k.needed -= set.Size()
}

// whole takes groups of which all is free, as long as all of it is needed.
func (k *taker) whole(levels ...level) {
	for _, g := range k.t.groups(k.free, levels...) {
		if g.free.Size() == g.all.Size() && k.needed >= g.all.Size() {
			k.take(g.all)
		}
	}
}

// threads takes what is still needed one by one.
func (k *taker) threads(levels ...level) {
	for _, g := range k.t.groups(k.free, levels...) {
		for _, id := range g.free.List() {
			if k.needed > 0 && k.free.Contains(id) {
				k.take(cpuset.New(id))
			}
		}
	}
}

// caches takes whole last level caches while they fit, and then whole cores below one, if it has as many as are needed.
func (k *taker) caches(levels []level) {
	order := []level{levels[0], byCache}
	if k.t.count(bySocket) < k.t.count(byNode) {
		order = []level{levels[0], levels[1], byCache}
	}
	least := len(k.t) / max(k.t.count(byCache), 1)
	for _, g := range k.t.groups(k.free, order...) {
		if k.needed >= least {
			k.whole(order...)
		}
		if k.needed == 0 {
			return
		}
		k.below(g.all)
	}
}

// below takes all that is needed from the cores of one cache, or nothing.
func (k *taker) below(cache cpuset.CPUSet) {
	perCore := k.t.perCore()
	most := (k.needed + perCore - 1) / perCore
	set := cpuset.New()
	for _, id := range cache.List() { // cores by their lowest threads, whether those are free or not
		core := k.t.cores(cpuset.New(id)).Intersection(k.free)
		if most > 0 && core.Size() > 0 && !core.IsSubsetOf(set) {
			set, most = set.Union(core), most-1
		}
	}
	if ids := set.List(); k.needed%2 != 0 && perCore > 1 && len(ids) > k.needed {
		set = cpuset.New(ids[:len(ids)-1]...)
	}
	if set.Size() == k.needed {
		k.take(set)
	}
}
