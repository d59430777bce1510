package admit

import (
	"sort"

	v1 "k8s.io/api/core/v1"
)

// Need is so much of a resource: thousandths of CPUs, else bytes or pieces.
type Need struct {
	Name     v1.ResourceName
	Quantity int64
}

// Lacking is what the node lacks of each resource to take p in beside the active pods; nothing when it fits.
func Lacking(p *v1.Pod, active []*v1.Pod, n Node) []Need {
	var needs []Need
	names := []string{string(v1.ResourcePods)}
	for name := range requests(p) {
		names = append(names, string(name))
	}
	sort.Strings(names[1:])
	for _, s := range names {
		name := v1.ResourceName(s)
		capacity, known := n.Allocatable[name]
		want := Requested(p, name)
		if !known || want == 0 {
			continue
		}
		missing := want - amount(name, capacity.Value(), capacity.MilliValue())
		for _, a := range active {
			missing += Requested(a, name)
		}
		if missing > 0 {
			needs = append(needs, Need{name, missing})
		}
	}
	return needs
}

// Requested is how much of a resource the pod asks for; of pods it is one.
func Requested(p *v1.Pod, name v1.ResourceName) int64 {
	if name == v1.ResourcePods {
		return 1
	}
	q := requests(p)[name]
	return amount(name, q.Value(), q.MilliValue())
}
