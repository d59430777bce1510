package devices

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
	"github.com/skiff-node/skiff/kubelet/pod"
)

// request is what a container asks of one resource, and what there is of it.
type request struct {
	count int
	// reuse are devices of init containers that have ended before this container starts.
	reuse sets.Set[string]
	// free devices are healthy and nobody's; those in near are close to where the container runs, those in far are not, and of
	// the others nothing is known.
	near, far, anywhere sets.Set[string]
}

// prefer asks the plugin which of the available devices it would give, of which some must be among them.
type prefer func(available, must sets.Set[string], size int) (sets.Set[string], error)

// sort puts free devices into the request by how they lie to the nodes where the container is to run.
func (q *request) sort(r *offer, free sets.Set[string], to numa.Mask) {
	q.near, q.far, q.anywhere = sets.New[string](), sets.New[string](), sets.New[string]()
	if to == 0 || !r.aligned() {
		q.anywhere = free
		return
	}
	for id := range free {
		nodes := r.devices[id].nodes
		switch {
		case numa.Of(nodes...)&to != 0:
			q.near.Insert(id)
		case len(nodes) > 0:
			q.far.Insert(id)
		default:
			q.anywhere.Insert(id)
		}
	}
}

// choose takes as many devices as are asked for: those of init containers first, then near ones, then the others; among
// equals those that the plugin prefers, else the first by name.
func choose(name string, q request, prefer prefer) (sets.Set[string], error) {
	taken := sets.New[string]()
	enough := func(from sets.Set[string]) bool {
		for _, id := range sets.List(from.Difference(taken)) {
			if taken.Len() < q.count {
				taken.Insert(id)
			}
		}
		return taken.Len() == q.count
	}
	if enough(q.reuse) {
		return taken, nil
	}
	free := q.near.Union(q.far).Union(q.anywhere)
	needed := q.count - taken.Len()
	if free.Len() < needed {
		return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", name, needed, free.Len())
	}
	from := free
	if needed < q.near.Len() {
		from = q.near
	} else if enough(q.near) {
		return taken, nil
	}
	preferred, err := prefer(from.Union(taken), taken, q.count)
	if err != nil {
		return nil, err
	}
	for _, list := range []sets.Set[string]{preferred.Intersection(from), q.near, q.far, q.anywhere} {
		if enough(list) {
			return taken, nil
		}
	}
	return nil, fmt.Errorf("unexpectedly allocated less resources than required. Requested: %d, Got: %d", q.count, taken.Len())
}

// reusable are the devices of a resource that the container may take over: those that init containers before it have had,
// unless a sidecar or another container that runs beside it has taken them over already.
func reusable(p *v1.Pod, container string, has func(container string) sets.Set[string]) sets.Set[string] {
	left := sets.New[string]()
	pod.Inherit(p, container, func(name string) { left = left.Union(has(name)) }, func(name string) { left = left.Difference(has(name)) })
	return left
}

// hints tells on which sets of NUMA nodes so many of the devices could be had, taking all that may be reused first.
func hints(r *offer, nodes []int, free, reuse sets.Set[string], count int) []numa.Hint {
	at, known := map[string]numa.Mask{}, numa.Of(nodes...)
	var inhabited numa.Mask
	for id, d := range r.devices {
		at[id] = numa.Of(d.nodes...)
		inhabited |= at[id] & known
	}
	if inhabited == 0 {
		inhabited = known
	}
	least := inhabited.Count()
	list := []numa.Hint{}
	numa.Subsets(inhabited.Nodes(), func(m numa.Mask) {
		all, matching := 0, 0
		for _, where := range at {
			if where&m != 0 {
				all++
			}
		}
		if all >= count {
			least = min(least, m.Count())
		}
		for id := range reuse {
			if at[id] != 0 && at[id]&m == 0 {
				return
			}
			if at[id] != 0 {
				matching++
			}
		}
		for id := range free {
			if at[id]&m != 0 {
				matching++
			}
		}
		if matching >= count {
			list = append(list, numa.Hint{Nodes: m})
		}
	})
	for i := range list {
		list[i].Preferred = list[i].Nodes.Count() == least
	}
	return list
}
