package stats

import (
	"context"
	"time"

	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// claims tells how full the claims of the node's pods are. A claim that several pods have is told once.
func (c *Collector) claims(ctx context.Context, t *text) {
	figures := []struct {
		name, help string
		of         func(v1alpha1.FsStats) *uint64
	}{
		{"kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", func(s v1alpha1.FsStats) *uint64 { return s.AvailableBytes }},
		{"kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", func(s v1alpha1.FsStats) *uint64 { return s.CapacityBytes }},
		{"kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", func(s v1alpha1.FsStats) *uint64 { return s.Inodes }},
		{"kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", func(s v1alpha1.FsStats) *uint64 { return s.InodesFree }},
		{"kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", func(s v1alpha1.FsStats) *uint64 { return s.InodesUsed }},
		{"kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", func(s v1alpha1.FsStats) *uint64 { return s.UsedBytes }},
	}
	for _, f := range figures {
		t.describe(f.name, gauge, f.help)
	}
	told := map[v1alpha1.PVCReference]bool{}
	for _, p := range c.cfg.Pods() {
		for _, v := range c.cfg.Volumes(ctx, p.UID) {
			if v.PVCRef == nil || told[*v.PVCRef] {
				continue
			}
			told[*v.PVCRef] = true
			for _, f := range figures {
				t.maybe(f.name, f.of(v.FsStats), 1, time.Time{}, "namespace", v.PVCRef.Namespace, "persistentvolumeclaim", v.PVCRef.Name)
			}
		}
	}
}
