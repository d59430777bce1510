package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

func setResources(s *specs.Spec, in Input) error {
	r, err := Resources(in.Config.Resources, in.Host)
	if err != nil {
		return err
	}
	r.Devices = s.Linux.Resources.Devices
	s.Linux.Resources = r
	return nil
}

// Resources translates resource limits. What is 0 or empty stays as it is.
func Resources(r runtimeservice.Resources, h Host) (*specs.LinuxResources, error) {
	out := &specs.LinuxResources{CPU: cpu(r), Memory: memory(r, h)}
	if len(r.Unified) > 0 && !h.CgroupV2 {
		return nil, invalid("resources.unified: needs cgroup v2, this node has v1")
	}
	out.Unified = r.Unified
	for _, l := range r.Hugepages {
		if !h.Hugetlb && l.Limit == 0 {
			continue // the kubelet lists all sizes; without a controller there is nothing to limit
		}
		if !h.Hugetlb {
			return nil, invalid("resources.hugepage_limits: the node has no hugetlb cgroup controller")
		}
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: l.PageSize, Limit: l.Limit})
	}
	return out, nil
}

func cpu(r runtimeservice.Resources) *specs.LinuxCPU {
	out := &specs.LinuxCPU{Cpus: r.CPUSetCPUs, Mems: r.CPUSetMems}
	if r.CPUPeriod > 0 {
		period := uint64(r.CPUPeriod)
		out.Period = &period
	}
	if r.CPUQuota != 0 {
		out.Quota = &r.CPUQuota
	}
	if r.CPUShares > 0 {
		shares := uint64(r.CPUShares)
		out.Shares = &shares
	}
	return out
}

// memory forbids swap to a container with a memory limit unless the request grants it (KEP-2400).
func memory(r runtimeservice.Resources, h Host) *specs.LinuxMemory {
	out := &specs.LinuxMemory{}
	if r.MemoryLimit != 0 {
		out.Limit = &r.MemoryLimit
	}
	switch {
	case !h.SwapAccounting:
	case r.MemorySwap != 0:
		out.Swap = &r.MemorySwap
	case r.MemoryLimit > 0:
		swap := r.MemoryLimit
		out.Swap = &swap
	}
	return out
}

// Merge: what an update does not set stays as it is.
func Merge(old, r runtimeservice.Resources) runtimeservice.Resources {
	for _, n := range []struct{ new, old *int64 }{
		{&r.CPUPeriod, &old.CPUPeriod}, {&r.CPUQuota, &old.CPUQuota}, {&r.CPUShares, &old.CPUShares},
		{&r.MemoryLimit, &old.MemoryLimit}, {&r.MemorySwap, &old.MemorySwap}, {&r.OOMScoreAdj, &old.OOMScoreAdj},
	} {
		if *n.new == 0 {
			*n.new = *n.old
		}
	}
	if r.CPUSetCPUs == "" {
		r.CPUSetCPUs = old.CPUSetCPUs
	}
	if r.CPUSetMems == "" {
		r.CPUSetMems = old.CPUSetMems
	}
	if r.Hugepages == nil {
		r.Hugepages = old.Hugepages
	}
	if r.Unified == nil {
		r.Unified = old.Unified
	}
	return r
}
