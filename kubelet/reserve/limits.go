package reserve

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/configuration"
)

// NodeLimits bounds all pods together to what kubeReserved and systemReserved leave of the machine, or to the machine where
// that is not to be enforced: the weight of a group that nobody has set is that of one processor. Hard eviction thresholds are not
// taken off, so that eviction can choose before the kernel kills.
func NodeLimits(c *kubeletconfig.KubeletConfiguration, capacity v1.ResourceList) cgroup.Limits {
	left := capacity
	if slices.Contains(c.EnforceNodeAllocatable, configuration.EnforcePods) {
		left = unreserved(c, capacity)
	}
	shares := cgroup.Shares(left.Cpu().MilliValue())
	l := cgroup.Limits{Shares: &shares}
	if memory := left.Memory().Value(); memory > 0 {
		l.Memory = &memory
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
			has.Sub(q)
			left[name] = has
		}
	}
	return left
}

// GroupLimits bounds the groups of the system and of the kubelet to what is reserved for them, where that is asked for.
// What can be throttled is always bounded; memory and processes only without "compressible".
func GroupLimits(c *kubeletconfig.KubeletConfiguration) map[string]cgroup.Limits {
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
		var l cgroup.Limits
		if q, ok := quantity(r.reserved, v1.ResourceCPU); ok {
			shares := cgroup.Shares(q.MilliValue())
			l.Shares = &shares
		}
		if q, ok := quantity(r.reserved, v1.ResourceMemory); ok && all {
			bytes := q.Value()
			l.Memory = &bytes
			if protected {
				l.Min = &bytes
			}
		}
		if q, ok := quantity(r.reserved, "pid"); ok && all {
			pids := q.Value()
			l.Pids = &pids
		}
		out[r.group] = l
	}
	return out
}

// quantity reads one reservation; a malformed one has been refused before.
func quantity(list map[string]string, name v1.ResourceName) (resource.Quantity, bool) {
	text, ok := list[string(name)]
	q, err := resource.ParseQuantity(text)
	return q, ok && err == nil
}
