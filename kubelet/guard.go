package kubelet

import (
	"context"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

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
	if g.measured, err = stats.New(stats.Config{NodeName: k.cfg.NodeName, Root: k.cfg.RootDir, LogsDir: k.cfg.PodLogsDir, Runtime: calls, Images: store, Pods: k.pool.Pods, Volumes: k.volumes.Usage, System: systemContainers(k)}); err != nil {
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
		Layout: g.layout, FreeContainers: func(ctx context.Context) error { return worker.Discard(ctx, k.pool) }, FreeImages: func(ctx context.Context) error { _, err := g.images.Free(ctx); return err }, Log: k.log,
		Evict: func(v evict.Victim) {
			k.events.Warning(v.Pod, "", "Evicted", "%s", v.Message)
			k.metrics.Pods.Evicted(string(v.Signal))
			k.pool.Evict(v.Pod.UID, evicted(v, c.EvictionMaxPodGracePeriod, time.Now()))
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
func evicted(v evict.Victim, most int32, now time.Time) pod.End {
	grace := int64(1)
	if !v.Hard {
		grace = int64(most)
		if own := v.Pod.Spec.TerminationGracePeriodSeconds; own != nil && *own < grace {
			grace = *own
		}
	}
	return pod.End{Deadline: now.Add(time.Duration(grace) * time.Second), Phase: v1.PodFailed, Reason: "Evicted", Message: v.Message,
		Condition: &v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: v.Message,
			LastTransitionTime: metav1.NewTime(now)}}
}

// measure tells what is left of each signal.
func (g *guard) measure(ctx context.Context) map[evict.Signal]evict.Value {
	n := g.measured.Node(ctx)
	return evict.Observed(&n)
}

func (g *guard) layout(ctx context.Context) (evict.Layout, error) {
	f, err := g.measured.FileSystems(ctx)
	return evict.LayoutOf(f.Node, f.Images, f.Layers), err
}

// limited reports whether any pod has a limit for the disk it uses.
func (g *guard) limited() bool {
	return slices.ContainsFunc(g.pool.Pods(), func(p *v1.Pod) bool {
		return slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c v1.Container) bool {
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
	return evict.Using(g.pool.Pods(), s.Pods, func(p *v1.Pod, volume string) evict.Disk {
		bytes, inodes := stats.Used(g.volumes.Dir(p.UID, "empty-dir", volume))
		return evict.Disk{Bytes: int64(bytes), Inodes: int64(inodes)}
	}), nil
}
