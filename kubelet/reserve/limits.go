package reserve

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/configuration"
)

// PIDs is what process ids are called among reservations. The cluster is not told of them, but groups are bounded to theirs.
const PIDs v1.ResourceName = "pid"

// NodeLimits bounds all pods together to what kubeReserved and systemReserved leave of the machine, or to the machine where
// that is not to be enforced: the weight of a group that nobody has set is that of one processor. Hard eviction thresholds are not
// taken off, so that eviction can choose before the kernel kills. capacity has process ids and huge pages too.
func NodeLimits(c *kubeletconfig.KubeletConfiguration, capacity v1.ResourceList) cgroup.Limits {
	left := capacity
	if slices.Contains(c.EnforceNodeAllocatable, configuration.EnforcePods) {
		left = unreserved(c, capacity)
	}
	l := limits(left, capacity)
	if l.Memory != nil && *l.Memory == 0 { // more is reserved than there is: then nothing could start, and upstream sets no limit
		l.Memory = nil
	}
	return l
}

// limits bound a group to a list of resources, as upstream's getCgroupConfig does. What is not in the list is not bounded, except
// for huge pages: of those a group may have none of the sizes that it has not been given.
func limits(list, capacity v1.ResourceList) cgroup.Limits {
	l := cgroup.Limits{HugePages: map[int64]int64{}}
	if q, ok := list[v1.ResourceCPU]; ok {
		l.Shares = new(cgroup.Shares(q.MilliValue()))
	}
	if q, ok := list[v1.ResourceMemory]; ok {
		l.Memory = new(q.Value())
	}
	if q, ok := list[PIDs]; ok {
		l.Pids = new(max(q.Value(), 1)) // systemd takes no 0, and what is in the group already could not fork either way
	}
	for name := range capacity {
		text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
		if size, err := resource.ParseQuantity(text); ok && err == nil {
			q := list[name]
			l.HugePages[size.Value()] = q.Value()
		}
	}
	return l
}

// Better keeps memory that pods request from pods of worse classes.
func Better(c *kubeletconfig.KubeletConfiguration, capacity v1.ResourceList) cgroup.Reserve {
	left := unreserved(c, capacity)
	return cgroup.Reserve{Percent: configuration.ReservedPercent(c), Allocatable: max(left.Memory().Value(), 0)}
}

// unreserved is what kubeReserved and systemReserved leave.
func unreserved(c *kubeletconfig.KubeletConfiguration, capacity v1.ResourceList) v1.ResourceList {
	left := capacity.DeepCopy()
	kept, err := Read(c)
	if err != nil { // it has been read before, and was good
		return left
	}
	for name, q := range kept.Fixed {
		if has, ok := left[name]; ok {
			if has.Sub(q); has.Sign() < 0 {
				has.Set(0)
			}
			left[name] = has
		}
	}
	return left
}

// GroupLimits bounds the groups of the system and of the kubelet to what is reserved for them, where that is asked for.
// What can be throttled is always bounded; memory, processes and huge pages only without "compressible". Upstream's takes all huge
// pages from a group with "compressible" too, though by its own words that is about what can be throttled; this one does not.
func GroupLimits(c *kubeletconfig.KubeletConfiguration, capacity v1.ResourceList) map[string]cgroup.Limits {
	out := map[string]cgroup.Limits{}
	protected := configuration.Gates(c.FeatureGates)["MemoryQoS"].Enabled // what is reserved is not reclaimed (KEP-2570)
	for _, r := range []struct {
		group      string
		reserved   map[string]string
		all, light string
	}{
		{c.SystemReservedCgroup, c.SystemReserved, configuration.EnforceSystem, configuration.EnforceSystemCompressible},
		{c.KubeReservedCgroup, c.KubeReserved, configuration.EnforceKubelet, configuration.EnforceKubeletCompressible},
	} {
		all := slices.Contains(c.EnforceNodeAllocatable, r.all)
		if !all && !slices.Contains(c.EnforceNodeAllocatable, r.light) {
			continue
		}
		l := limits(quantities(r.reserved), capacity)
		if protected {
			l.Min = l.Memory
		}
		if !all {
			l = cgroup.Limits{Shares: l.Shares}
		}
		out[r.group] = l
	}
	return out
}

// quantities reads reservations; a malformed one has been refused before.
func quantities(reserved map[string]string) v1.ResourceList {
	out := v1.ResourceList{}
	for name, text := range reserved {
		if q, err := resource.ParseQuantity(text); err == nil {
			out[v1.ResourceName(name)] = q
		}
	}
	return out
}
