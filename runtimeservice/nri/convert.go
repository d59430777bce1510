package nri

import (
	"time"

	"errors"
	"fmt"
	"os"

	nri "github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/hooks"
)

// toPod shows a sandbox to plugins. A sandbox has no process, so there is no pid.
func toPod(p hooks.Pod) *nri.PodSandbox {
	c := p.Config
	out := &nri.PodSandbox{
		Id: p.ID, Name: c.Metadata.Name, Uid: c.Metadata.UID, Namespace: c.Metadata.Namespace,
		Labels: c.Labels, Annotations: c.Annotations, RuntimeHandler: c.Handler,
		Linux: &nri.LinuxPodSandbox{
			PodOverhead: toResources(c.Overhead), PodResources: toResources(c.Resources),
			CgroupParent: p.Cgroup, CgroupsPath: p.Cgroup,
		},
	}
	for _, ip := range p.IPs {
		out.Ips = append(out.Ips, ip.String())
	}
	if _, err := os.Stat(p.NetNS); p.NetNS != "" && err == nil {
		out.Linux.Namespaces = []*nri.LinuxNamespace{{Type: "network", Path: p.NetNS}}
	}
	return out
}

var states = map[runtimeservice.ContainerState]nri.ContainerState{
	runtimeservice.ContainerCreated: nri.ContainerState_CONTAINER_CREATED,
	runtimeservice.ContainerRunning: nri.ContainerState_CONTAINER_RUNNING,
	runtimeservice.ContainerExited:  nri.ContainerState_CONTAINER_STOPPED,
}

// toContainer shows a container to plugins. Its specification is s, or else read. One that has none any more, because
// its creation came to nothing, shows what its request says.
func toContainer(u hooks.Unit, s *specs.Spec) (*nri.Container, error) {
	c := u.Config
	out := &nri.Container{
		Id: u.ID, PodSandboxId: u.SandboxID, Name: c.Metadata.Name, State: states[u.State],
		Labels: c.Labels, Annotations: c.Annotations, Pid: uint32(max(u.Pid, 0)),
		CreatedAt: nanos(u.CreatedAt), StartedAt: nanos(u.StartedAt), FinishedAt: nanos(u.FinishedAt),
		ExitCode: int32(u.ExitCode), StatusReason: u.Reason, StatusMessage: u.Message,
		Linux: &nri.LinuxContainer{CgroupsPath: u.Cgroup},
	}
	for _, name := range c.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, &nri.CDIDevice{Name: name})
	}
	if profile := c.Security.Seccomp; profile != nil {
		out.Linux.SeccompProfile = toProfile(*profile)
	}
	if s == nil {
		var err error
		if s, err = u.Spec(); errors.Is(err, os.ErrNotExist) {
			return out, nil
		} else if err != nil {
			return nil, fmt.Errorf("show container %s to plugins: %w", u.ID, err)
		}
	}
	showSpec(out, s)
	return out, nil
}

// showSpec fills in what the specification says.
func showSpec(out *nri.Container, s *specs.Spec) {
	out.Mounts, out.Hooks = api.FromOCIMounts(s.Mounts), api.FromOCIHooks(s.Hooks)
	if p := s.Process; p != nil {
		out.Args, out.Env = p.Args, p.Env
		out.User = &nri.User{Uid: p.User.UID, Gid: p.User.GID, AdditionalGids: p.User.AdditionalGids}
		for _, l := range p.Rlimits {
			out.Rlimits = append(out.Rlimits, &nri.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
		}
		out.Linux.OomScoreAdj = api.Int(p.OOMScoreAdj)
		out.Linux.IoPriority = api.FromOCILinuxIOPriority(p.IOPriority)
		if p.Scheduler != nil {
			out.Linux.Scheduler = api.FromOCILinuxScheduler(p.Scheduler)
		}
	}
	l := s.Linux
	if l == nil {
		return
	}
	out.Linux.Namespaces, out.Linux.Devices = api.FromOCILinuxNamespaces(l.Namespaces), api.FromOCILinuxDevices(l.Devices)
	out.Linux.Resources = api.FromOCILinuxResources(l.Resources, nil)
	out.Linux.Sysctl, out.Linux.NetDevices = l.Sysctl, api.FromOCILinuxNetDevices(l.NetDevices)
	if l.CgroupsPath != "" {
		out.Linux.CgroupsPath = l.CgroupsPath
	}
	if l.Seccomp != nil {
		out.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(l.Seccomp)
	}
	if r := l.IntelRdt; r != nil {
		out.Linux.Rdt = &nri.LinuxRdt{
			ClosId: api.String(r.ClosID), Schemata: api.RepeatedString(r.Schemata), EnableMonitoring: api.Bool(r.EnableMonitoring),
		}
	}
}

func toProfile(p runtimeservice.Profile) *nri.SecurityProfile {
	types := map[runtimeservice.ProfileType]api.SecurityProfile_ProfileType{
		runtimeservice.ProfileRuntimeDefault: api.SecurityProfile_RUNTIME_DEFAULT,
		runtimeservice.ProfileUnconfined:     api.SecurityProfile_UNCONFINED,
		runtimeservice.ProfileLocalhost:      api.SecurityProfile_LOCALHOST,
	}
	return &nri.SecurityProfile{ProfileType: types[p.Type], LocalhostRef: p.Ref}
}

// toResources shows resources to plugins; what is not set is left out.
func toResources(r *runtimeservice.Resources) *nri.LinuxResources {
	if r == nil {
		return nil
	}
	out := &nri.LinuxResources{Cpu: &nri.LinuxCPU{Cpus: r.CPUSetCPUs, Mems: r.CPUSetMems}, Memory: &nri.LinuxMemory{}, Unified: r.Unified}
	if r.CPUShares != 0 {
		out.Cpu.Shares = api.UInt64(uint64(r.CPUShares))
	}
	if r.CPUQuota != 0 {
		out.Cpu.Quota = api.Int64(r.CPUQuota)
	}
	if r.CPUPeriod != 0 {
		out.Cpu.Period = api.UInt64(uint64(r.CPUPeriod))
	}
	if r.MemoryLimit != 0 {
		out.Memory.Limit = api.Int64(r.MemoryLimit)
	}
	if r.MemorySwap != 0 {
		out.Memory.Swap = api.Int64(r.MemorySwap)
	}
	for _, h := range r.Hugepages {
		out.HugepageLimits = append(out.HugepageLimits, &nri.HugepageLimit{PageSize: h.PageSize, Limit: h.Limit})
	}
	return out
}

// fromResources reads what plugins want. What cannot be changed while a container exists is refused by name.
func fromResources(r *nri.LinuxResources) (runtimeservice.Resources, error) {
	out := runtimeservice.Resources{}
	for field, set := range map[string]bool{
		"pids": r.GetPids() != nil, "devices": len(r.GetDevices()) > 0, "blockio_class": r.GetBlockioClass() != nil, "rdt_class": r.GetRdtClass() != nil,
		"memory.reservation": r.GetMemory().GetReservation() != nil, "memory.swappiness": r.GetMemory().GetSwappiness() != nil,
		"cpu.realtime_runtime": r.GetCpu().GetRealtimeRuntime() != nil, "cpu.realtime_period": r.GetCpu().GetRealtimePeriod() != nil,
	} {
		if set {
			return out, fmt.Errorf("update of %s: %w", field, runtimeservice.ErrUnsupported)
		}
	}
	cpu, memory := r.GetCpu(), r.GetMemory()
	out = runtimeservice.Resources{
		CPUShares: int64(cpu.GetShares().GetValue()), CPUQuota: cpu.GetQuota().GetValue(), CPUPeriod: int64(cpu.GetPeriod().GetValue()),
		CPUSetCPUs: cpu.GetCpus(), CPUSetMems: cpu.GetMems(),
		MemoryLimit: memory.GetLimit().GetValue(), MemorySwap: memory.GetSwap().GetValue(), Unified: r.GetUnified(),
	}
	for _, h := range r.GetHugepageLimits() {
		out.Hugepages = append(out.Hugepages, runtimeservice.HugepageLimit{PageSize: h.GetPageSize(), Limit: h.GetLimit()})
	}
	return out, nil
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
