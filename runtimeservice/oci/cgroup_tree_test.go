package oci

import (
	"reflect"
	"testing"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

func TestAttributes(t *testing.T) {
	const all = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NODIRATIME
	for name, tc := range map[string]struct {
		flags      int
		set, clear uint64
	}{
		"none": {0, 0, all},
		"container's": {unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME,
			unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
			unix.MOUNT_ATTR_NODIRATIME | unix.MOUNT_ATTR__ATIME},
		"noatime": {unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME, all | unix.MOUNT_ATTR__ATIME},
	} {
		got := attributes(tc.flags)
		if want := (unix.MountAttr{Attr_set: tc.set, Attr_clr: tc.clear, Propagation: unix.MS_PRIVATE}); got != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
}

func TestUnplantCgroups(t *testing.T) {
	other := &configs.Mount{Device: "bind", Source: "/x", Destination: "/y", Data: "z"}
	mounts := []*configs.Mount{other, {
		Device: "bind", Source: "/proc/1/fd/9", Destination: "/sys/fs/cgroup", Flags: unix.MS_BIND | unix.MS_REC,
		PropagationFlags: []int{unix.MS_PRIVATE}, Data: treeData + "15",
	}}
	want := []*configs.Mount{other, {
		Device: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Flags: 15, PropagationFlags: []int{unix.MS_PRIVATE},
	}}
	if err := unplantCgroups(mounts); err != nil || !reflect.DeepEqual(mounts, want) {
		t.Errorf("%+v, %v", mounts[1], err)
	}
	if err := unplantCgroups([]*configs.Mount{{Data: treeData + "x"}}); err == nil {
		t.Error("nonsense was taken for flags")
	}
}
