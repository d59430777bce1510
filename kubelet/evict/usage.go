package evict

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Observed is what is left of each signal, as the node was measured. What could not be measured is left out.
func Observed(n *v1alpha1.NodeStats) map[Signal]Value {
	out := map[Signal]Value{}
	if m := n.Memory; m != nil && m.AvailableBytes != nil && m.WorkingSetBytes != nil {
		out[Memory] = Value{Available: int64(*m.AvailableBytes), Capacity: int64(*m.AvailableBytes + *m.WorkingSetBytes)}
	}
	disk := func(f *v1alpha1.FsStats, bytes, inodes Signal) {
		if f == nil || f.AvailableBytes == nil || f.CapacityBytes == nil {
			return
		}
		out[bytes] = Value{Available: int64(*f.AvailableBytes), Capacity: int64(*f.CapacityBytes)}
		if f.InodesFree != nil && f.Inodes != nil && *f.Inodes > 0 { // btrfs and others have no fixed number
			out[inodes] = Value{Available: int64(*f.InodesFree), Capacity: int64(*f.Inodes)}
		}
	}
	disk(n.Fs, NodeFs, NodeFsInodes)
	if n.Runtime != nil {
		disk(n.Runtime.ImageFs, ImageFs, ImageInodes)
	}
	if r := n.Rlimit; r != nil && r.MaxPID != nil && r.NumOfRunningProcesses != nil {
		out[PIDs] = Value{Available: *r.MaxPID - *r.NumOfRunningProcesses, Capacity: *r.MaxPID}
	}
	return out
}

// Using joins pods to what the runtime measured of them. measure tells of an emptyDir on disk.
func Using(pods []*v1.Pod, stats []v1alpha1.PodStats, measure func(p *v1.Pod, volume string) Disk) []Pod {
	used := map[string]*v1alpha1.PodStats{}
	for i := range stats {
		used[stats[i].PodRef.UID] = &stats[i]
	}
	var out []Pod
	for _, p := range pods {
		e := Pod{Pod: p, Containers: map[string]Use{}, Volumes: map[string]Disk{}}
		if u := used[string(p.UID)]; u != nil {
			e.measured(u)
		}
		for i := range p.Spec.Volumes {
			v := &p.Spec.Volumes[i]
			if v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault {
				e.Volumes[v.Name] = measure(p, v.Name)
			}
		}
		out = append(out, e)
	}
	return out
}

func (p *Pod) measured(u *v1alpha1.PodStats) {
	p.Measured = true
	if u.Memory != nil {
		p.Memory = number(u.Memory.WorkingSetBytes)
	}
	if u.ProcessStats != nil {
		p.Processes = number(u.ProcessStats.ProcessCount)
	}
	for i := range u.Containers {
		c := &u.Containers[i]
		use := Use{Root: taken(c.Rootfs), Logs: taken(c.Logs)}
		if c.Memory != nil {
			use.Memory = number(c.Memory.WorkingSetBytes)
		}
		p.Containers[c.Name] = use
	}
}

func taken(f *v1alpha1.FsStats) Disk {
	if f == nil {
		return Disk{}
	}
	return Disk{Bytes: number(f.UsedBytes), Inodes: number(f.InodesUsed)}
}

func number(v *uint64) int64 {
	if v == nil {
		return 0
	}
	return int64(*v)
}
