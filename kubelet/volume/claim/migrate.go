package claim

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	translation "k8s.io/csi-translation-lib"
	"k8s.io/klog/v2"

	skiffvolume "github.com/skiff-node/skiff/kubelet/volume"
)

// Migrated tells whether the source is of a type of some cloud that a CSI driver has taken over: such volumes are that driver's.
func Migrated(src *v1.VolumeSource) bool {
	return translation.New().IsInlineMigratable(&v1.Volume{VolumeSource: *src})
}

// Migrates implements volume.Claims.
func (Finder) Migrates(src *v1.VolumeSource) bool { return Migrated(src) }

// migrated is the persistent volume as its driver knows it. Those of other types stay what they are.
func migrated(pv *v1.PersistentVolume) (*v1.PersistentVolume, error) {
	t := translation.New()
	if !t.IsPVMigratable(pv) {
		return pv, nil
	}
	driven, err := t.TranslateInTreePVToCSI(klog.Background(), pv)
	if err != nil {
		return nil, fmt.Errorf("translate PV %s to the volume of a CSI driver: %w", pv.Name, err)
	}
	return driven, nil
}

// inline is the volume of a pod that has no claim, as its driver knows it. It goes by its name in the pod: the one that the
// translation gives it is made of what the pod says, and would name directories.
func inline(pod *v1.Pod, vol *v1.Volume) (*skiffvolume.Claimed, error) {
	pv, err := translation.New().TranslateInTreeInlineVolumeToCSI(klog.Background(), vol, pod.Namespace)
	if err != nil {
		return nil, fmt.Errorf("translate volume %s to the volume of a CSI driver: %w", vol.Name, err)
	}
	pv.Name = vol.Name
	return &skiffvolume.Claimed{Volume: pv, ReadOnly: pv.Spec.CSI.ReadOnly}, nil
}
