package csi

import (
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
)

func TestAccessMode(t *testing.T) {
	for _, tc := range []struct {
		mode       v1.PersistentVolumeAccessMode
		singleNode bool
		want       csi.VolumeCapability_AccessMode_Mode
	}{
		{"", false, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		{"", true, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
		{v1.ReadWriteOnce, false, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		{v1.ReadWriteOnce, true, csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER},
		{v1.ReadWriteOncePod, false, csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		{v1.ReadWriteOncePod, true, csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER},
		{v1.ReadOnlyMany, true, csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY},
		{v1.ReadWriteMany, false, csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER},
	} {
		var modes []v1.PersistentVolumeAccessMode
		if tc.mode != "" {
			modes = append(modes, tc.mode)
		}
		if got := accessMode(modes, tc.singleNode); got != tc.want {
			t.Errorf("%q, %v: %v, want %v", tc.mode, tc.singleNode, got, tc.want)
		}
	}
}

func TestWhoOwnsTheFiles(t *testing.T) {
	rwo, rwx := []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, []v1.PersistentVolumeAccessMode{v1.ReadWriteMany}
	for _, tc := range []struct {
		policy storagev1.FSGroupPolicy
		v      vol
		want   bool
	}{
		{"", vol{FSType: "ext4", Modes: rwo}, true},
		{"", vol{Modes: rwo}, false},
		{"", vol{FSType: "ext4", Modes: rwx}, false},
		{"", vol{FSType: "ext4", Inline: true}, true},
		{"", vol{FSType: "ext4", Modes: rwo, ReadOnly: true}, false},
		{storagev1.FileFSGroupPolicy, vol{Modes: rwx}, true},
		{storagev1.FileFSGroupPolicy, vol{Modes: rwo, Block: true}, false},
		{storagev1.NoneFSGroupPolicy, vol{FSType: "ext4", Modes: rwo}, false},
	} {
		d := &storagev1.CSIDriver{}
		if tc.policy != "" {
			d.Spec.FSGroupPolicy = &tc.policy
		}
		if got := wishesOf(d).owns(&tc.v); got != tc.want {
			t.Errorf("%q %+v: %v", tc.policy, tc.v, got)
		}
	}
}

func TestWishes(t *testing.T) {
	none := wishesOf(nil)
	if !none.Attach || none.PodInfo || none.supports(&vol{}) != nil {
		t.Errorf("a driver without an object: %+v", none)
	}
	if err := none.supports(&vol{Driver: "d", Inline: true}); err == nil || err.Error() != `volume mode "Ephemeral" not supported by driver d (no CSIDriver object)` {
		t.Errorf("inline without an object: %v", err)
	}
}

func TestSafe(t *testing.T) {
	attached := []v1.AttachedVolume{{Name: "a"}}
	for _, tc := range []struct {
		status v1.NodeStatus
		want   string
	}{
		{v1.NodeStatus{}, "has not yet been added to the list of VolumesInUse in the node's volume status"},
		{v1.NodeStatus{VolumesAttached: attached}, "has not yet been added to the list of VolumesInUse in the node's volume status"},
		{v1.NodeStatus{VolumesInUse: []v1.UniqueVolumeName{"a"}}, "is not attached according to node status"},
		{v1.NodeStatus{VolumesInUse: []v1.UniqueVolumeName{"b", "a"}, VolumesAttached: attached}, ""},
	} {
		got := ""
		if err := Safe(&tc.status, "a"); err != nil {
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("%+v: %q", tc.status, got)
		}
	}
}
