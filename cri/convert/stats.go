package convert

import (
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice"
)

// ContainerStats translates the measure of a container.
func ContainerStats(s runtimeservice.ContainerStats) *cri.ContainerStats {
	c := s.Container
	out := &cri.ContainerStats{
		Attributes: &cri.ContainerAttributes{
			Id: c.ID, Metadata: containerMetadata(c.Config.Metadata), Labels: c.Config.Labels, Annotations: c.Config.Annotations,
		},
		Cpu:    cpu(s.Usage),
		Memory: memory(s.Usage),
		Swap:   swap(s.Usage),
		Io:     io(s.Usage),
	}
	if !s.Layer.At.IsZero() {
		out.WritableLayer = &cri.FilesystemUsage{
			Timestamp:  s.Layer.At.UnixNano(),
			FsId:       &cri.FilesystemIdentifier{Mountpoint: s.Layer.Mountpoint},
			UsedBytes:  &cri.UInt64Value{Value: s.Layer.Bytes},
			InodesUsed: &cri.UInt64Value{Value: s.Layer.Inodes},
		}
	}
	return out
}

// SandboxStats translates the measure of a sandbox.
func SandboxStats(s runtimeservice.SandboxStats) *cri.PodSandboxStats {
	c := s.Sandbox.Config
	linux := &cri.LinuxPodSandboxStats{
		Cpu: cpu(s.Usage), Memory: memory(s.Usage), Io: io(s.Usage),
		Process: &cri.ProcessUsage{Timestamp: nanos(s.Usage.At), ProcessCount: number(s.Usage.Processes)},
	}
	for i, n := range s.Interfaces {
		usage := &cri.NetworkInterfaceUsage{
			Name:    n.Name,
			RxBytes: &cri.UInt64Value{Value: n.RxBytes}, RxErrors: &cri.UInt64Value{Value: n.RxErrors},
			TxBytes: &cri.UInt64Value{Value: n.TxBytes}, TxErrors: &cri.UInt64Value{Value: n.TxErrors},
		}
		if i == 0 {
			linux.Network = &cri.NetworkUsage{Timestamp: nanos(s.Usage.At), DefaultInterface: usage}
			continue
		}
		linux.Network.Interfaces = append(linux.Network.Interfaces, usage)
	}
	for _, container := range s.Containers {
		linux.Containers = append(linux.Containers, ContainerStats(container))
	}
	return &cri.PodSandboxStats{
		Attributes: &cri.PodSandboxAttributes{
			Id: s.Sandbox.ID, Metadata: sandboxMetadata(c.Metadata), Labels: c.Labels, Annotations: c.Annotations,
		},
		Linux: linux,
	}
}

func number(m runtimeservice.Metric) *cri.UInt64Value {
	if !m.Known {
		return nil
	}
	return &cri.UInt64Value{Value: m.Value}
}

func cpu(u runtimeservice.Usage) *cri.CpuUsage {
	return &cri.CpuUsage{
		Timestamp: nanos(u.At), UsageCoreNanoSeconds: number(u.CPU.CoreNanoseconds),
		UsageNanoCores: number(u.CPU.NanoCores), Psi: psi(u.CPU.PSI),
	}
}

func memory(u runtimeservice.Usage) *cri.MemoryUsage {
	m := u.Memory
	return &cri.MemoryUsage{
		Timestamp: nanos(u.At), WorkingSetBytes: number(m.WorkingSet), AvailableBytes: number(m.Available),
		UsageBytes: number(m.Usage), RssBytes: number(m.RSS), PageFaults: number(m.PageFaults),
		MajorPageFaults: number(m.MajorPageFaults), Psi: psi(m.PSI),
	}
}

func swap(u runtimeservice.Usage) *cri.SwapUsage {
	return &cri.SwapUsage{
		Timestamp: nanos(u.At), SwapAvailableBytes: number(u.Swap.Available), SwapUsageBytes: number(u.Swap.Usage),
	}
}

func io(u runtimeservice.Usage) *cri.IoUsage {
	if u.IOPSI == nil {
		return nil
	}
	return &cri.IoUsage{Timestamp: nanos(u.At), Psi: psi(u.IOPSI)}
}

func psi(p *runtimeservice.PSI) *cri.PsiStats {
	if p == nil {
		return nil
	}
	line := func(l runtimeservice.PSILine) *cri.PsiData {
		return &cri.PsiData{Total: l.Total, Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &cri.PsiStats{Full: line(p.Full), Some: line(p.Some)}
}

// StatsFilter reads the filter of a container stats list.
func StatsFilter(f *cri.ContainerStatsFilter) runtimeservice.Filter {
	return runtimeservice.Filter{ID: f.GetId(), SandboxID: f.GetPodSandboxId(), Labels: f.GetLabelSelector()}
}

// SandboxStatsFilter reads the filter of a sandbox stats list.
func SandboxStatsFilter(f *cri.PodSandboxStatsFilter) runtimeservice.Filter {
	return runtimeservice.Filter{ID: f.GetId(), Labels: f.GetLabelSelector()}
}

var eventTypes = map[runtimeservice.EventType]cri.ContainerEventType{
	runtimeservice.EventCreated: cri.ContainerEventType_CONTAINER_CREATED_EVENT,
	runtimeservice.EventStarted: cri.ContainerEventType_CONTAINER_STARTED_EVENT,
	runtimeservice.EventStopped: cri.ContainerEventType_CONTAINER_STOPPED_EVENT,
	runtimeservice.EventDeleted: cri.ContainerEventType_CONTAINER_DELETED_EVENT,
}

// Event translates an event with the whole status of its pod, whose containers' are given.
func Event(e runtimeservice.Event, containers []*cri.ContainerStatus) *cri.ContainerEventResponse {
	out := &cri.ContainerEventResponse{
		ContainerId: e.ID, ContainerEventType: eventTypes[e.Type], CreatedAt: e.At.UnixNano(), ContainersStatuses: containers,
	}
	if e.Sandbox != nil {
		out.PodSandboxStatus = PodSandboxStatus(*e.Sandbox)
	}
	return out
}
