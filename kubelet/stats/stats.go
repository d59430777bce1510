// Package stats measures the node, its pods and their containers, and shows the figures in the forms that others read:
//
//	/stats/summary      JSON (k8s.io/kubelet stats/v1alpha1): the summary API
//	/metrics/resource   Prometheus: what metrics-server and the autoscalers need, and nothing else
//	/metrics/cadvisor   Prometheus: the figures dashboards know from cAdvisor, as far as CRI tells them
//	/metrics            Prometheus: the kubelet itself
//
// Pods and containers are measured by the runtime (CRI ListPodSandboxStats), the node from /proc. Nothing is measured while
// nobody asks: there is no sampling loop. So rates (usageNanoCores) of the node are over the time since the last question.
package stats

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// The labels by which runtimes know whose container it is.
const (
	labelPodName   = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
	labelUID       = "io.kubernetes.pod.uid"
	labelContainer = "io.kubernetes.container.name"
)

// Config is what a Collector needs.
type Config struct {
	NodeName string
	// Root is a directory on the file system that holds pods' data (nodefs).
	Root string
	// Runtime and Images are the container runtime.
	Runtime runtimeapi.RuntimeServiceClient
	Images  runtimeapi.ImageServiceClient
	// LogsDir has the logs of the pods' containers: /var/log/pods. When empty, logs are not measured.
	LogsDir string
	// Pods lists the pods of the node, for limits and start times. May be nil.
	Pods func() []*v1.Pod
	// Volumes tells how full the volumes of a pod are. It is asked for the summary and for the kubelet's own metrics only.
	// May be nil.
	Volumes func(ctx context.Context, uid types.UID) []v1alpha1.VolumeStats
	// System measures groups of the machine that are no pod's own, for the summary only. May be nil.
	System func() []v1alpha1.ContainerStats
}

// Collector measures when asked. It is safe for concurrent use.
type Collector struct {
	cfg     Config
	started time.Time

	mu   sync.Mutex
	last cpuSample
}

type cpuSample struct {
	at   time.Time
	used uint64 // nanoseconds
	rate uint64 // nanoseconds per second
}

// New checks the configuration.
func New(cfg Config) (*Collector, error) {
	if cfg.Runtime == nil || cfg.Images == nil || cfg.Root == "" {
		return nil, errors.New("stats: Runtime, Images and Root are required")
	}
	if cfg.Pods == nil {
		cfg.Pods = func() []*v1.Pod { return nil }
	}
	if cfg.Volumes == nil {
		cfg.Volumes = func(context.Context, types.UID) []v1alpha1.VolumeStats { return nil }
	}
	return &Collector{cfg: cfg, started: time.Now()}, nil
}

// Summary measures everything. What a source cannot tell is left out; an error means that the runtime gave nothing.
func (c *Collector) Summary(ctx context.Context) (*v1alpha1.Summary, error) {
	pods, err := c.pods(ctx)
	if err != nil {
		return nil, err
	}
	return &v1alpha1.Summary{Node: c.node(ctx), Pods: pods}, nil
}

// pods measures the running pods, sorted by namespace and name.
func (c *Collector) pods(ctx context.Context) ([]v1alpha1.PodStats, error) {
	got, err := c.cfg.Runtime.ListPodSandboxStats(ctx, &runtimeapi.ListPodSandboxStatsRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for the pods' statistics: %w", err)
	}
	boxes, err := c.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}}})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for its sandboxes: %w", err)
	}
	containers, err := c.cfg.Runtime.ListContainers(ctx, &runtimeapi.ListContainersRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for its containers: %w", err)
	}
	created := map[string]int64{}
	for _, b := range boxes.Items {
		created[b.Id] = b.CreatedAt
	}
	for _, ct := range containers.Containers {
		created[ct.Id] = ct.CreatedAt
	}
	pods := podStats(got.Stats, created)
	c.addLogs(pods)
	return pods, nil
}

// podStats converts what the runtime measured. created maps ids of sandboxes that are ready, and of containers, to their
// times of creation in nanoseconds; sandboxes not in it are former ones.
func podStats(list []*runtimeapi.PodSandboxStats, created map[string]int64) []v1alpha1.PodStats {
	out := []v1alpha1.PodStats{}
	for _, s := range list {
		at, ready := created[s.GetAttributes().GetId()]
		if !ready || s.Linux == nil {
			continue
		}
		labels := s.GetAttributes().GetLabels()
		p := v1alpha1.PodStats{
			PodRef:    v1alpha1.PodReference{Name: labels[labelPodName], Namespace: labels[labelNamespace], UID: labels[labelUID]},
			StartTime: nanos(at),
			CPU:       cpu(s.Linux.Cpu), Memory: memory(s.Linux.Memory), IO: ioPressure(s.Linux.Io), Network: network(s.Linux.Network),
			Containers: []v1alpha1.ContainerStats{},
		}
		if n := s.Linux.Process.GetProcessCount(); n != nil {
			p.ProcessStats = &v1alpha1.ProcessStats{ProcessCount: &n.Value}
		}
		for _, c := range s.Linux.Containers {
			p.Containers = append(p.Containers, containerStats(c, created))
		}
		p.EphemeralStorage, p.Swap = sumRootfs(p.Containers), sumSwap(p.Containers)
		slices.SortFunc(p.Containers, func(a, b v1alpha1.ContainerStats) int { return cmp.Compare(a.Name, b.Name) })
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b v1alpha1.PodStats) int {
		return cmp.Or(cmp.Compare(a.PodRef.Namespace, b.PodRef.Namespace), cmp.Compare(a.PodRef.Name, b.PodRef.Name))
	})
	return out
}

func containerStats(c *runtimeapi.ContainerStats, created map[string]int64) v1alpha1.ContainerStats {
	out := v1alpha1.ContainerStats{
		Name:      c.GetAttributes().GetLabels()[labelContainer],
		StartTime: nanos(created[c.GetAttributes().GetId()]),
		CPU:       cpu(c.Cpu), Memory: memory(c.Memory), IO: ioPressure(c.Io),
	}
	if w := c.WritableLayer; w != nil {
		out.Rootfs = &v1alpha1.FsStats{Time: nanos(w.Timestamp), UsedBytes: value(w.UsedBytes), InodesUsed: value(w.InodesUsed)}
	}
	if s := c.Swap; s != nil {
		out.Swap = &v1alpha1.SwapStats{Time: nanos(s.Timestamp), SwapUsageBytes: value(s.SwapUsageBytes), SwapAvailableBytes: value(s.SwapAvailableBytes)}
	}
	return out
}

// sumSwap is how much swap the containers use together; how much they may have left is told of each.
func sumSwap(containers []v1alpha1.ContainerStats) *v1alpha1.SwapStats {
	var sum *v1alpha1.SwapStats
	for _, c := range containers {
		if c.Swap == nil || c.Swap.SwapUsageBytes == nil {
			continue
		}
		if sum == nil {
			sum = &v1alpha1.SwapStats{Time: c.Swap.Time, SwapUsageBytes: new(uint64)}
		}
		*sum.SwapUsageBytes += *c.Swap.SwapUsageBytes
	}
	return sum
}

func sumRootfs(containers []v1alpha1.ContainerStats) *v1alpha1.FsStats {
	var sum *v1alpha1.FsStats
	for _, c := range containers {
		if c.Rootfs == nil || c.Rootfs.UsedBytes == nil {
			continue
		}
		if sum == nil {
			sum = &v1alpha1.FsStats{Time: c.Rootfs.Time, UsedBytes: new(uint64)}
		}
		*sum.UsedBytes += *c.Rootfs.UsedBytes
	}
	return sum
}

func cpu(u *runtimeapi.CpuUsage) *v1alpha1.CPUStats {
	if u == nil {
		return nil
	}
	return &v1alpha1.CPUStats{Time: nanos(u.Timestamp), UsageCoreNanoSeconds: value(u.UsageCoreNanoSeconds), UsageNanoCores: value(u.UsageNanoCores), PSI: psi(u.Psi)}
}

func memory(u *runtimeapi.MemoryUsage) *v1alpha1.MemoryStats {
	if u == nil {
		return nil
	}
	return &v1alpha1.MemoryStats{Time: nanos(u.Timestamp), AvailableBytes: value(u.AvailableBytes), UsageBytes: value(u.UsageBytes),
		WorkingSetBytes: value(u.WorkingSetBytes), RSSBytes: value(u.RssBytes), PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorPageFaults), PSI: psi(u.Psi)}
}

func network(u *runtimeapi.NetworkUsage) *v1alpha1.NetworkStats {
	if u == nil {
		return nil
	}
	out := &v1alpha1.NetworkStats{Time: nanos(u.Timestamp)}
	convert := func(i *runtimeapi.NetworkInterfaceUsage) v1alpha1.InterfaceStats {
		return v1alpha1.InterfaceStats{Name: i.Name, RxBytes: value(i.RxBytes), RxErrors: value(i.RxErrors), TxBytes: value(i.TxBytes), TxErrors: value(i.TxErrors)}
	}
	if i := u.DefaultInterface; i != nil {
		out.InterfaceStats = convert(i)
		out.Interfaces = append(out.Interfaces, convert(i))
	}
	for _, i := range u.Interfaces {
		if u.DefaultInterface == nil || i.Name != u.DefaultInterface.Name {
			out.Interfaces = append(out.Interfaces, convert(i))
		}
	}
	return out
}

// value is nil for what was not measured.
func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

func nanos(ns int64) metav1.Time { return metav1.NewTime(time.Unix(0, ns)) }
