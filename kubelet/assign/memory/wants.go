package memory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
	"github.com/skiff-node/skiff/kubelet/pod"
)

// Amounts of memory in bytes, by kind: memory, hugepages-2Mi …
type Amounts map[v1.ResourceName]uint64

func isMemory(name v1.ResourceName) bool {
	return name == v1.ResourceMemory || strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix)
}

// wants is the memory that a container gets of certain nodes: only those of Guaranteed pods do, and none where resources are the
// pod's as a whole.
func wants(p *v1.Pod, c *v1.Container) Amounts {
	if pod.QOS(p) != v1.PodQOSGuaranteed || resourcehelper.IsPodLevelResourcesSet(p) {
		return nil
	}
	out := Amounts{}
	for _, list := range []v1.ResourceList{c.Resources.Limits, c.Resources.Requests} { // requests count, limits stand in for them
		for name, q := range list {
			if isMemory(name) && q.Value() > 0 {
				out[name] = uint64(q.Value())
			}
		}
	}
	return out
}

// together is what the pod needs at the same time at most: init containers run one after the other, beside the sidecars that
// have started before.
func together(p *v1.Pod) Amounts {
	beside, most := Amounts{}, Amounts{}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		for kind, n := range wants(p, c) {
			if pod.Sidecar(c) {
				beside[kind] += n
			} else {
				most[kind] = max(most[kind], beside[kind]+n)
			}
		}
	}
	for i := range p.Spec.Containers {
		for kind, n := range wants(p, &p.Spec.Containers[i]) {
			beside[kind] += n
		}
	}
	for kind, n := range beside {
		most[kind] = max(most[kind], n)
	}
	return most
}

// of is what a container has, or with nil what the first container of the pod has that has something; nil for nothing.
func (f file) of(p *v1.Pod, c *v1.Container) []block {
	if c != nil {
		return f[c.Name]
	}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if has := f[list[i].Name]; has != nil {
				return has
			}
		}
	}
	return nil
}

// reusable is what the container may use again of what init containers before it have had, by the nodes that it is on, unless a
// sidecar or another container uses it already.
func (f file) reusable(p *v1.Pod, container string) map[numa.Mask]Amounts {
	left := map[numa.Mask]Amounts{}
	for _, c := range started(p, container) {
		for _, b := range f[c.Name] {
			if left[b.Nodes] == nil {
				left[b.Nodes] = Amounts{}
			}
			l, n := left[b.Nodes], wants(p, c)[b.Kind] // all of it: what is noted is what was not used again
			if runsFirst(p, c.Name) {
				l[b.Kind] = max(l[b.Kind], n)
			} else {
				l[b.Kind] -= min(l[b.Kind], n)
			}
		}
	}
	return left
}

// started are the containers that are given theirs before this one, in order.
func started(p *v1.Pod, container string) []*v1.Container {
	var out []*v1.Container
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if list[i].Name == container {
				return out
			}
			out = append(out, &list[i])
		}
	}
	return out
}

// runsFirst tells whether the container ends before the others start.
func runsFirst(p *v1.Pod, container string) bool {
	i := slices.IndexFunc(p.Spec.InitContainers, func(c v1.Container) bool { return c.Name == container })
	return i >= 0 && !pod.Sidecar(&p.Spec.InitContainers[i])
}

// use notes a block, and takes off init containers' what is used again, so that the sum is what the pod has.
func (f file) use(p *v1.Pod, container string, b block) {
	left := b.Bytes
	for _, c := range started(p, container) {
		if !runsFirst(p, c.Name) {
			continue
		}
		for i := range f[c.Name] {
			if old := &f[c.Name][i]; old.Kind == b.Kind && old.Nodes == b.Nodes {
				n := min(old.Bytes, left)
				old.Bytes, left = old.Bytes-n, left-n
			}
		}
	}
	f[container] = append(f[container], b)
}

// Reserved reads reservedMemory, which has to add up to what is kept from pods: kubeReserved, systemReserved and the hard eviction
// threshold together.
func Reserved(list []kubeletconfig.MemoryReservation, kept v1.ResourceList, machine numa.Machine) (map[int]Amounts, error) {
	out, sums := map[int]Amounts{}, v1.ResourceList{}
	var errs []error
	for _, r := range list {
		node := int(r.NumaNode)
		if !slices.Contains(machine.IDs(), node) {
			errs = append(errs, fmt.Errorf("the reserved memory configuration references a NUMA node %d that does not exist on this machine", node))
			continue
		}
		if out[node] == nil {
			out[node] = Amounts{}
		}
		for name, q := range r.Limits {
			errs = append(errs, reservation(name, q, node, out[node]))
			out[node][name] = uint64(q.Value())
			sum := sums[name]
			sum.Add(q)
			sums[name] = sum
		}
	}
	for name := range kept {
		if _, ok := sums[name]; !ok && isMemory(name) {
			sums[name] = *resource.NewQuantity(0, resource.BinarySI)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		sum, want := sums[name], kept[name]
		if sum.Cmp(want) != 0 {
			errs = append(errs, fmt.Errorf("the total amount %q of type %q is not equal to the value %q determined by Node Allocatable feature", sum.String(), name, want.String()))
		}
	}
	return out, errors.Join(errs...)
}

// reservation checks one value.
func reservation(name v1.ResourceName, q resource.Quantity, node int, before Amounts) error {
	_, twice := before[name]
	switch {
	case !isMemory(name):
		return fmt.Errorf("the limit type %q for NUMA node %d is not supported, only [memory hugepages-<HugePageSize>] is accepted", name, node)
	case q.Sign() <= 0:
		return fmt.Errorf("reserved memory may not be zero for NUMA node %d and resource %q", node, name)
	case twice:
		return fmt.Errorf("the reserved memory has a duplicate value for NUMA node %d and resource %q", node, name)
	}
	return nil
}
