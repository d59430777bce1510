package csi

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-node/skiff/kubelet/volume"
)

// Measure implements volume.Measurer by asking the driver, if it can tell.
func (k *Kind) Measure(ctx context.Context, req volume.Request, at volume.Place) (v1alpha1.FsStats, error) {
	st := v1alpha1.FsStats{Time: metav1.Now()}
	v, err := describe(req)
	if err != nil {
		return st, err
	}
	d, err := k.cfg.Drivers.get(v.Driver)
	if err != nil {
		return st, err
	}
	can, err := d.can(ctx, csi.NodeServiceCapability_RPC_GET_VOLUME_STATS)
	if err != nil {
		return st, err
	}
	if !can {
		return st, fmt.Errorf("CSI driver %s does not tell how full its volumes are: %w", v.Driver, volume.ErrUnsupported)
	}
	ask := &csi.NodeGetVolumeStatsRequest{VolumeId: v.Handle, VolumePath: at.Path}
	if stages, err := d.can(ctx, csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME); err == nil && stages && !v.Inline {
		ask.StagingTargetPath, _ = k.journal.staging(&entry{Driver: v.Driver, Handle: v.Handle, Name: v.Name, Mode: mode(v)})
	}
	var answer *csi.NodeGetVolumeStatsResponse
	err = d.call(ctx, func(ctx context.Context) (err error) {
		answer, err = d.node.NodeGetVolumeStats(ctx, ask)
		return err
	})
	if err != nil {
		return st, err
	}
	for _, u := range answer.Usage {
		total, free, used := uint64(u.Total), uint64(u.Available), uint64(u.Used)
		switch u.Unit {
		case csi.VolumeUsage_BYTES:
			st.CapacityBytes, st.AvailableBytes, st.UsedBytes = &total, &free, &used
		case csi.VolumeUsage_INODES:
			st.Inodes, st.InodesFree, st.InodesUsed = &total, &free, &used
		}
	}
	return st, nil
}

// mode is the volume's mode as entries have it.
func mode(v *vol) string {
	if v.Block {
		return "Block"
	}
	return ""
}
