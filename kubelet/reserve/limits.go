package reserve

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/configuration"
)

// NodeLimits bounds all pods together: their weight is that of the processors they may have, their memory what
// kubeReserved and systemReserved leave. Hard eviction thresholds are not taken off, so that eviction can choose before the
// kernel kills.
func NodeLimits(c *kubeletconfig.KubeletConfiguration, memory int64, allocatable v1.ResourceList) cgroup.Limits {
	if !slices.Contains(c.EnforceNodeAllocatable, configuration.EnforcePods) {
		return cgroup.Limits{}
	}
	shares := cgroup.Shares(allocatable.Cpu().MilliValue())
	l := cgroup.Limits{Shares: &shares}
	if kept, err := Read(c); err == nil {
		if q := kept.Fixed.Memory(); !q.IsZero() {
			left := memory - q.Value()
			l.Memory = &left
		}
	}
	if q, ok := allocatable["pid"]; ok {
		pids := q.Value()
		l.Pids = &pids
	}
	return l
}

// GroupLimits bounds the groups of the system and of the kubelet to what is reserved for them, where that is asked for.
// What can be throttled is always bounded; memory and processes only without "compressible".
func GroupLimits(c *kubeletconfig.KubeletConfiguration) map[string]cgroup.Limits {
	out := map[string]cgroup.Limits{}
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
