package kubelet

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"golang.org/x/sync/errgroup"

	"github.com/skiff-node/skiff/kubelet/evict"
	"github.com/skiff-node/skiff/kubelet/images"
	"github.com/skiff-node/skiff/kubelet/node"
	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/reserve"
	"github.com/skiff-node/skiff/kubelet/shutdown"
	"github.com/skiff-node/skiff/kubelet/stats"
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/worker"
)

// guard keeps the node from running out of what cannot be throttled: it measures, removes unused images and evicts pods.
type guard struct {
	measured *stats.Collector
	images   *images.Collector
	evict    *evict.Loop
	pool     *worker.Pool
	volumes  *volume.Manager
	shutdown *shutdown.Manager // nil unless a shutdownGracePeriod is set
}

// newGuard reads thresholds and policies of the configuration, with upstream's defaults.
func (k *Kubelet) newGuard() error {
	c := k.cfg.Configuration
	calls, store := k.runtime.CRI()
	g := &guard{pool: k.pool, volumes: k.volumes.Manager}
	var err error
	if g.measured, err = stats.New(stats.Config{NodeName: k.cfg.NodeName, Root: k.cfg.RootDir, LogsDir: k.cfg.PodLogsDir, Runtime: calls, Images: store, Pods: k.pool.Pods, Volumes: k.volumes.Usage}); err != nil {
		return err
	}
	event := func(kind, reason, message string) { k.events.Node(k.cfg.NodeName, kind, reason, message) }
	if g.images, err = images.New(images.Config{Runtime: calls, Images: store, Policy: imagePolicy(c), Event: event, Removed: k.metrics.Volumes.Collected, Listed: k.facts.pulls.Prune, Trace: k.tracing.Span, Log: k.log}); err != nil {
		return err
	}
	settings := evict.Settings{Hard: reserve.HardThresholds(c), Soft: c.EvictionSoft, SoftGrace: c.EvictionSoftGracePeriod, MinimumReclaim: c.EvictionMinimumReclaim}
	thresholds, err := evict.Parse(settings)
	if err != nil {
		return err
	}
	limited := g.limited
	if !*c.LocalStorageCapacityIsolation {
		limited = nil
	}
	g.evict, err = evict.New(evict.Config{
		Thresholds: thresholds, Transition: c.EvictionPressureTransitionPeriod.Duration, Measure: g.measure, Pods: g.pods, Limited: limited,
		FreeImages: g.images.Free, Log: k.log,
		Evict: func(p *v1.Pod, message string, hard bool) {
			k.events.Warning(p, "", "Evicted", "%s", message)
			k.metrics.Pods.Evicted(signalOf(message))
			k.pool.Evict(p.UID, evicted(p, message, hard, c.EvictionMaxPodGracePeriod, time.Now()))
		},
		Changed: func() {
			if k.node != nil {
				k.node.Wake()
			}
		}})
	k.guard = g
	newShutdown(k)
	return err
}

func imagePolicy(c *kubeletconfig.KubeletConfiguration) images.Policy {
	p := images.Policy{High: 85, Low: 80, MinAge: 2 * time.Minute, MaxAge: c.ImageMaximumGCAge.Duration}
	if c.ImageGCHighThresholdPercent != nil {
		p.High = int(*c.ImageGCHighThresholdPercent)
	}
	if c.ImageGCLowThresholdPercent != nil {
		p.Low = int(*c.ImageGCLowThresholdPercent)
	}
	if c.ImageMinimumGCAge.Duration > 0 {
		p.MinAge = c.ImageMinimumGCAge.Duration
	}
	return p
}

// run looks after disk and memory until ctx ends.
func (g *guard) run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.images.Run(ctx) })
	group.Go(func() error { return g.evict.Run(ctx) })
	return group.Wait()
}

func (g *guard) pressure() node.Pressure {
	return node.Pressure{Memory: g.evict.Under(evict.MemoryPressure), Disk: g.evict.Under(evict.DiskPressure), PID: g.evict.Under(evict.PIDPressure)}
}

// evicted is how an evicted pod ends: at once for a hard threshold, else with its own grace period up to most seconds.
func evicted(p *v1.Pod, message string, hard bool, most int32, now time.Time) pod.End {
	grace := int64(1)
	if !hard {
		grace = int64(most)
		if own := p.Spec.TerminationGracePeriodSeconds; own != nil && *own < grace {
			grace = *own
		}
	}
	return pod.End{Deadline: now.Add(time.Duration(grace) * time.Second), Phase: v1.PodFailed, Reason: "Evicted", Message: message,
		Condition: &v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: message,
			LastTransitionTime: metav1.NewTime(now)}}
}

// measure tells what is left of each signal.
func (g *guard) measure(ctx context.Context) map[evict.Signal]evict.Value {
	n := g.measured.Node(ctx)
	out := map[evict.Signal]evict.Value{}
	if m := n.Memory; m != nil && m.AvailableBytes != nil && m.WorkingSetBytes != nil {
		out[evict.Memory] = evict.Value{Available: int64(*m.AvailableBytes), Capacity: int64(*m.AvailableBytes + *m.WorkingSetBytes)}
	}
	disk := func(f *v1alpha1.FsStats, bytes, inodes evict.Signal) {
		if f == nil || f.AvailableBytes == nil || f.CapacityBytes == nil {
			return
		}
		out[bytes] = evict.Value{Available: int64(*f.AvailableBytes), Capacity: int64(*f.CapacityBytes)}
		if f.InodesFree != nil && f.Inodes != nil && *f.Inodes > 0 { // btrfs and others have no fixed number
			out[inodes] = evict.Value{Available: int64(*f.InodesFree), Capacity: int64(*f.Inodes)}
		}
	}
	disk(n.Fs, evict.NodeFs, evict.NodeFsInodes)
	if n.Runtime != nil {
		disk(n.Runtime.ImageFs, evict.ImageFs, evict.ImageInodes)
	}
	if r := n.Rlimit; r != nil && r.MaxPID != nil && r.NumOfRunningProcesses != nil {
		out[evict.PIDs] = evict.Value{Available: *r.MaxPID - *r.NumOfRunningProcesses, Capacity: *r.MaxPID}
	}
	return out
}

// limited reports whether any pod has a limit for the disk it uses.
func (g *guard) limited() bool {
	return slices.ContainsFunc(g.pool.Pods(), func(p *v1.Pod) bool {
		return slices.ContainsFunc(p.Spec.Containers, func(c v1.Container) bool {
			_, has := c.Resources.Limits[v1.ResourceEphemeralStorage]
			return has
		}) || slices.ContainsFunc(p.Spec.Volumes, func(v v1.Volume) bool { return v.EmptyDir != nil && v.EmptyDir.SizeLimit != nil })
	})
}

// pods joins what the runtime measured and what volumes hold to the pods.
func (g *guard) pods(ctx context.Context) ([]evict.Pod, error) {
	s, err := g.measured.Summary(ctx)
	if err != nil {
		return nil, fmt.Errorf("measure the pods: %w", err)
	}
	used := map[string]v1alpha1.PodStats{}
	for _, p := range s.Pods {
		used[p.PodRef.UID] = p
	}
	var out []evict.Pod
	for _, p := range g.pool.Pods() {
		u := used[string(p.UID)]
		e := evict.Pod{Pod: p, Containers: map[string]evict.Use{}, Volumes: map[string]int64{}}
		if u.Memory != nil {
			e.Memory = number(u.Memory.WorkingSetBytes)
		}
		if u.ProcessStats != nil {
			e.Processes = number(u.ProcessStats.ProcessCount)
		}
		for _, c := range u.Containers {
			e.Containers[c.Name] = useOf(c)
			e.Disk += e.Containers[c.Name].Disk
		}
		for i := range p.Spec.Volumes {
			v := &p.Spec.Volumes[i]
			if v.EmptyDir == nil || v.EmptyDir.Medium != v1.StorageMediumDefault {
				continue
			}
			e.Volumes[v.Name] = diskUse(g.volumes.Dir(p.UID, "empty-dir", v.Name))
			e.Disk += e.Volumes[v.Name]
		}
		out = append(out, e)
	}
	return out, nil
}

func useOf(c v1alpha1.ContainerStats) evict.Use {
	var u evict.Use
	if c.Memory != nil {
		u.Memory = number(c.Memory.WorkingSetBytes)
	}
	if c.Rootfs != nil {
		u.Disk = number(c.Rootfs.UsedBytes)
	}
	if c.Logs != nil {
		u.Disk += number(c.Logs.UsedBytes)
	}
	return u
}

func number(v *uint64) int64 {
	if v == nil {
		return 0
	}
	return int64(*v)
}

// diskUse sums the blocks of the files below dir, as du does. What vanishes meanwhile counts nothing.
func diskUse(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				sum += st.Blocks * 512
			}
		}
		return nil
	})
	return sum
}
