package oci

import (
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// merge sets in have what is set in want. A limit that is nil or empty in want stays.
func merge(have *cgroups.Resources, want *specs.LinuxResources) {
	// Device rules are not part of an update; skipping them keeps what a plugin added on top.
	have.SkipDevices = true
	if want.CPU != nil {
		mergeCPU(have, want.CPU)
	}
	if want.Memory != nil {
		mergeMemory(have, want.Memory)
	}
	if want.Pids != nil && want.Pids.Limit != nil {
		have.PidsLimit = want.Pids.Limit
	}
	for _, page := range want.HugepageLimits {
		mergeHugepage(have, page)
	}
	for key, value := range want.Unified {
		if have.Unified == nil {
			have.Unified = map[string]string{}
		}
		have.Unified[key] = value
	}
}

func mergeCPU(have *cgroups.Resources, want *specs.LinuxCPU) {
	if want.Shares != nil {
		have.CpuShares = *want.Shares
		have.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*want.Shares)
	}
	if want.Period != nil && *want.Period != 0 {
		have.CpuPeriod = *want.Period
	}
	if want.Quota != nil && *want.Quota != 0 {
		have.CpuQuota = *want.Quota
	}
	if want.Burst != nil {
		have.CpuBurst = want.Burst
	}
	if want.Idle != nil {
		have.CPUIdle = want.Idle
	}
	if want.Cpus != "" {
		have.CpusetCpus = want.Cpus
	}
	if want.Mems != "" {
		have.CpusetMems = want.Mems
	}
}

func mergeMemory(have *cgroups.Resources, want *specs.LinuxMemory) {
	if want.Limit != nil {
		have.Memory = *want.Limit
		if *want.Limit == -1 && want.Swap == nil {
			have.MemorySwap = 0 // no swap limit without a memory limit
		}
	}
	if want.Reservation != nil {
		have.MemoryReservation = *want.Reservation
	}
	if want.Swap != nil {
		have.MemorySwap = *want.Swap
	}
	if want.CheckBeforeUpdate != nil {
		have.MemoryCheckBeforeUpdate = *want.CheckBeforeUpdate
	}
}

// mergeHugepage copies the list: the container's own configuration must not change when setting fails.
func mergeHugepage(have *cgroups.Resources, page specs.LinuxHugepageLimit) {
	list := []*cgroups.HugepageLimit{{Pagesize: page.Pagesize, Limit: page.Limit}}
	for _, old := range have.HugetlbLimit {
		if old.Pagesize != page.Pagesize {
			list = append(list, old)
		}
	}
	have.HugetlbLimit = list
}
