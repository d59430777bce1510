package convert

import (
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Resources reads resource limits; nil is none.
func Resources(r *cri.LinuxContainerResources) runtimeservice.Resources {
	out := runtimeservice.Resources{
		CPUPeriod:   r.GetCpuPeriod(),
		CPUQuota:    r.GetCpuQuota(),
		CPUShares:   r.GetCpuShares(),
		MemoryLimit: r.GetMemoryLimitInBytes(),
		MemorySwap:  r.GetMemorySwapLimitInBytes(),
		OOMScoreAdj: r.GetOomScoreAdj(),
		CPUSetCPUs:  r.GetCpusetCpus(),
		CPUSetMems:  r.GetCpusetMems(),
		Unified:     r.GetUnified(),
	}
	for _, h := range r.GetHugepageLimits() {
		out.Hugepages = append(out.Hugepages, runtimeservice.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out
}

func optionalResources(r *cri.LinuxContainerResources) *runtimeservice.Resources {
	if r == nil {
		return nil
	}
	out := Resources(r)
	return &out
}

// OptionalResources is Resources for a message that may be absent.
func OptionalResources(r *cri.LinuxContainerResources) *runtimeservice.Resources {
	return optionalResources(r)
}

func criResources(r runtimeservice.Resources) *cri.LinuxContainerResources {
	out := &cri.LinuxContainerResources{
		CpuPeriod:              r.CPUPeriod,
		CpuQuota:               r.CPUQuota,
		CpuShares:              r.CPUShares,
		MemoryLimitInBytes:     r.MemoryLimit,
		MemorySwapLimitInBytes: r.MemorySwap,
		OomScoreAdj:            r.OOMScoreAdj,
		CpusetCpus:             r.CPUSetCPUs,
		CpusetMems:             r.CPUSetMems,
		Unified:                r.Unified,
	}
	for _, h := range r.Hugepages {
		out.HugepageLimits = append(out.HugepageLimits, &cri.HugepageLimit{PageSize: h.PageSize, Limit: h.Limit})
	}
	return out
}
