//go:build root

package local

import (
	"io/fs"
	"os"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/skiff-node/skiff/kubelet/volume"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestLocalVolume(t *testing.T) {
	runtime.LockOSThread() // a mount namespace of its own, which dies with the thread
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	if err := os.WriteFile(data+"/file", []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	pv := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-1"}, Spec: v1.PersistentVolumeSpec{
		PersistentVolumeSource: v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{Path: data}}}}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: v1.PodSpec{
		SecurityContext: &v1.PodSecurityContext{FSGroup: ptr.To[int64](4242), FSGroupChangePolicy: ptr.To(v1.FSGroupChangeOnRootMismatch)}}}
	kind, dir := &Kind{}, t.TempDir()+"/pv-1"
	t.Cleanup(func() {
		if err := volume.Unmount(dir); err != nil {
			t.Error(err)
		}
	})
	req := volume.Request{Pod: pod, Volume: &v1.Volume{Name: "v"}, Claimed: &volume.Claimed{Volume: pv}, Dir: dir}
	for range 2 {
		place, err := kind.Setup(t.Context(), req)
		if err != nil || place != (volume.Place{Path: dir, Relabel: true}) {
			t.Fatalf("%+v, %v", place, err)
		}
	}
	info, err := os.Stat(dir + "/file")
	if err != nil || info.Mode().Perm() != 0o660 || info.Sys().(*syscall.Stat_t).Gid != 4242 {
		t.Errorf("the group cannot write the file: %v %v", info, err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode()&fs.ModeSetgid == 0 {
		t.Errorf("the root is not the group's: %v %v", info, err)
	}
	if err := os.Chmod(data+"/file", 0o600); err != nil { // OnRootMismatch: the root says that all is done
		t.Fatal(err)
	}
	if err := volume.Own(data, ptr.To[int64](4242), pod.Spec.SecurityContext.FSGroupChangePolicy, false); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(data + "/file"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("all files were looked at again: %v %v", info, err)
	}
	if err := volume.Unmount(dir); err != nil {
		t.Fatal(err)
	}
	req.Claimed.ReadOnly = true
	if place, err := kind.Setup(t.Context(), req); err != nil || !place.ReadOnly {
		t.Fatalf("%+v, %v", place, err)
	}
	if err := os.WriteFile(dir+"/new", nil, 0o600); err == nil {
		t.Error("a read-only claim was written")
	}
	pv.Spec.VolumeMode = ptr.To(v1.PersistentVolumeBlock)
	if _, err := kind.Setup(t.Context(), req); err == nil || !strings.Contains(err.Error(), `MapVolume.SetUpDevice failed for volume "pv-1" : path `+data+` is not a block device`) {
		t.Errorf("a directory as a device: %v", err)
	}
}
