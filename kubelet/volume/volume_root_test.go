//go:build root

package volume_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/kinds"
	"github.com/skiff-node/skiff/kubelet/volume/projected"
)

// ownMounts moves the test into a mount namespace of its own. Its thread is never given back, so that it dies with it.
func ownMounts(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
}

// world is a manager over objects the test holds.
type world struct {
	*volume.Manager
	root    string
	objects map[string]any
	tokens  int
}

func (w *world) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	if o, ok := w.objects["cm/"+name]; ok {
		return o.(*v1.ConfigMap), nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmap"), name)
}

func (w *world) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	if o, ok := w.objects["secret/"+name]; ok {
		return o.(*v1.Secret), nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secret"), name)
}

func (w *world) Token(context.Context, *v1.Pod, *v1.ServiceAccountTokenProjection) (string, error) {
	w.tokens++
	return "token", nil
}

func (w *world) Forget(string) { w.tokens = 0 }

func newWorld(t *testing.T) *world {
	t.Helper()
	ownMounts(t)
	w := &world{root: t.TempDir(), objects: map[string]any{}}
	var err error
	w.Manager, err = volume.New(volume.Config{Root: w.root, Kinds: kinds.All(kinds.Config{Projected: projected.Config{Objects: w, Tokens: w,
		Allocatable: func() v1.ResourceList { return v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")} }}})})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Retain(context.Background(), only("")); err != nil {
			t.Error(err)
		}
	})
	return w
}

func podWith(volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid-1", Labels: map[string]string{"a": "b"}},
		Spec: v1.PodSpec{ServiceAccountName: "sa", Volumes: volumes}}
}

func vol(name string, src v1.VolumeSource) v1.Volume { return v1.Volume{Name: name, VolumeSource: src} }

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func stat(t *testing.T, path string) (fs.FileMode, *syscall.Stat_t) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode(), info.Sys().(*syscall.Stat_t)
}

func TestSetupAndTeardown(t *testing.T) {
	w := newWorld(t)
	w.objects["cm/conf"] = &v1.ConfigMap{Data: map[string]string{"key": "value"}}
	w.objects["secret/pw"] = &v1.Secret{Data: map[string][]byte{"pw": []byte("secret")}}
	host := t.TempDir()
	pod := podWith(
		vol("disk", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}),
		vol("mem", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: ptr.To(resource.MustParse("1Mi"))}}),
		vol("host", v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: host, Type: ptr.To(v1.HostPathDirectory)}}),
		vol("conf", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, DefaultMode: ptr.To[int32](0o600)}}),
		vol("pw", v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "pw"}}),
		vol("api", v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Items: []v1.KeyToPath{{Key: "key", Path: "ca.crt"}}}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "ns", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
		}}}),
		vol("image", v1.VolumeSource{Image: &v1.ImageVolumeSource{}}),
	)
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](4242)}
	paths, err := w.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) != 6 || paths["host"].Path != host || paths["disk"].Path != filepath.Join(w.root, "pods/uid-1/volumes/kubernetes.io~empty-dir/disk") {
		t.Errorf("paths %v", paths)
	}
	if got := read(t, paths["conf"].Path+"/key") + read(t, paths["pw"].Path+"/pw") + read(t, paths["api"].Path+"/ns") + read(t, paths["api"].Path+"/token") + read(t, paths["api"].Path+"/ca.crt"); got != "valuesecretnstokenvalue" {
		t.Errorf("content %q", got)
	}
	if mode, st := stat(t, paths["conf"].Path+"/key"); mode != 0o640 || st.Gid != 4242 {
		t.Errorf("configMap file %v gid %d, want 0640 and the fsGroup", mode, st.Gid)
	}
	if mode, st := stat(t, paths["disk"].Path); mode != fs.ModeDir|fs.ModeSetgid|0o777 || st.Gid != 4242 {
		t.Errorf("emptyDir %v gid %d", mode, st.Gid)
	}
	for _, name := range []string{"pw", "api", "mem"} {
		var st unix.Statfs_t
		if err := unix.Statfs(paths[name].Path, &st); err != nil || st.Type != unix.TMPFS_MAGIC {
			t.Errorf("volume %s is on file system %x, want tmpfs", name, st.Type)
		}
		if name == "mem" && int64(st.Blocks)*st.Bsize != 1<<20 {
			t.Errorf("volume in memory has %d bytes, want its sizeLimit", int64(st.Blocks)*st.Bsize)
		}
	}
	if err := os.WriteFile(paths["mem"].Path+"/kept", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Setup(t.Context(), pod); err != nil {
		t.Fatalf("second setup: %v", err)
	}
	if _, err := os.Stat(paths["mem"].Path + "/kept"); err != nil {
		t.Errorf("the second setup lost content: %v", err)
	}
	if err := os.WriteFile(paths["disk"].Path+"/large", make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	used := map[string]uint64{}
	for _, v := range w.Usage(t.Context(), pod.UID) {
		used[v.Name] = *v.UsedBytes
	}
	if len(used) != 6 || used["disk"] < 1<<20 || used["disk"] > 2<<20 || used["mem"] > 1<<20 {
		t.Errorf("usage %v", used)
	}
	if err := w.Teardown(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	if got := w.Usage(t.Context(), pod.UID); got != nil {
		t.Errorf("a pod that is gone uses %v", got)
	}
	if _, err := os.Stat(w.PodDir(pod.UID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pod directory: %v", err)
	}
	if err := w.Teardown(t.Context(), pod.UID); err != nil {
		t.Errorf("second teardown: %v", err)
	}
	if info := read(t, "/proc/thread-self/mountinfo"); strings.Contains(info, w.root) {
		t.Errorf("mounts left:\n%s", info)
	}
}

func TestFailuresNameVolumeAndKind(t *testing.T) {
	w := newWorld(t)
	pod := podWith(
		vol("data", v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}),
		vol("conf", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "none"}}}),
		vol("maybe", v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "none", Optional: ptr.To(true)}}),
		vol("host", v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: w.root, Type: ptr.To(v1.HostPathSocket)}}),
	)
	paths, err := w.Setup(t.Context(), pod)
	if !errors.Is(err, volume.ErrUnsupported) || len(paths) != 1 {
		t.Fatalf("paths %v, err %v", paths, err)
	}
	for _, want := range []string{
		`"data" : persistentVolumeClaim needs an API server and this kubelet has none: volume kind is not supported`,
		`"conf" : configmap "none" not found`,
		`"host" : hostPath type check failed: ` + w.root + ` is not a socket file, it's a Directory`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	if all := volume.Failures(err); len(all) != 3 || all[0].Reason != "FailedMount" {
		t.Errorf("events %q", all)
	}
}

func TestEmptyDirIsTheContainersOnceMade(t *testing.T) {
	w := newWorld(t)
	pod := podWith(
		vol("disk", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}),
		vol("mem", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory}}))
	paths, err := w.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range paths { // as a database does with its data directory
		if err := os.Chmod(at.Path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	for name, at := range paths {
		if mode, _ := stat(t, at.Path); mode != fs.ModeDir|0o700 {
			t.Errorf("volume %s was given the mode %v when a container started again", name, mode)
		}
	}
	if err := volume.Unmount(paths["mem"].Path); err != nil { // a reboot
		t.Fatal(err)
	}
	if _, err := w.Setup(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if mounted, err := volume.IsMountPoint(paths["mem"].Path); err != nil || !mounted {
		t.Errorf("the volume in memory is no longer in memory: %v", err)
	}
}

func TestHostPathTypes(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path string
		kind v1.HostPathType
		want string
	}{
		{dir, v1.HostPathDirectory, ""},
		{dir + "/file", v1.HostPathFile, ""},
		{"/dev/null", v1.HostPathCharDev, ""},
		{dir + "/none", v1.HostPathUnset, ""},
		{dir + "/new/dir", v1.HostPathDirectoryOrCreate, ""},
		{dir + "/new/file", v1.HostPathFileOrCreate, ""},
		{dir + "/file", v1.HostPathDirectoryOrCreate, "hostPath type check failed: " + dir + "/file is not a directory, it's a File"},
		{dir, v1.HostPathFile, "hostPath type check failed: " + dir + " is not a file, it's a Directory"},
		{"/dev/null", v1.HostPathBlockDev, "hostPath type check failed: /dev/null is not a block device, it's a CharDevice"},
		{dir + "/none", v1.HostPathSocket, "hostPath type check failed, " + dir + "/none is not a socket file, unable to determine its type: stat"},
		{dir, "Cupboard", "Cupboard is an invalid volume type"},
		{dir + "/../x", v1.HostPathUnset, "invalid HostPath"},
	} {
		pod := podWith(vol("host", v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: tc.path, Type: &tc.kind}}))
		_, err := w.Setup(t.Context(), pod)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %q: %v, want %q", tc.path, tc.kind, err, tc.want)
		}
	}
}

func TestRunKeepsContentCurrent(t *testing.T) {
	w := newWorld(t)
	w.objects["cm/conf"] = &v1.ConfigMap{Data: map[string]string{"key": "one"}}
	pod := podWith(vol("conf", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}))
	paths, err := w.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	w.objects["cm/conf"] = &v1.ConfigMap{Data: map[string]string{"key": "two"}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	w.Changed([]types.UID{pod.UID, "unknown"})
	for deadline := time.Now().Add(10 * time.Second); read(t, paths["conf"].Path+"/key") != "two"; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the content did not follow")
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTeardownNeverDeletesThroughAMount(t *testing.T) {
	w := newWorld(t)
	pod := podWith(vol("disk", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}))
	paths, err := w.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	precious := t.TempDir()
	if err := os.WriteFile(precious+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	inside := paths["disk"].Path + "/in side" // mountinfo escapes the space
	if err := os.Mkdir(inside, 0o700); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := unix.Mount(precious, inside, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Retain(t.Context(), only(pod.UID)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(inside + "/file"); err != nil {
		t.Fatalf("a living pod was touched: %v", err)
	}
	if err := w.Retain(t.Context(), only("other")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(precious + "/file"); err != nil {
		t.Errorf("the host's file is gone: %v", err)
	}
	if _, err := os.Stat(w.PodDir(pod.UID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("pod directory: %v", err)
	}
}

func TestSubPath(t *testing.T) {
	w := newWorld(t)
	w.objects["cm/conf"] = &v1.ConfigMap{Data: map[string]string{"key": "value"}}
	pod := podWith(
		vol("disk", v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}),
		vol("conf", v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}}))
	paths, err := w.Setup(t.Context(), pod)
	if err != nil {
		t.Fatal(err)
	}
	sub := func(volumeName, path string) (string, error) {
		return w.SubPath(t.Context(), volume.SubPath{Pod: pod.UID, Volume: volumeName, Container: "c", VolumePath: paths[volumeName].Path, Path: path})
	}
	file, err := sub("conf", "key")
	if err != nil || read(t, file) != "value" {
		t.Fatalf("file of a configMap: %v", err)
	}
	dir, err := sub("disk", "a/b")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/x", []byte("1"), 0o600); err != nil || read(t, paths["disk"].Path+"/a/b/x") != "1" {
		t.Errorf("the directory is not the volume's: %v", err)
	}
	if mode, _ := stat(t, paths["disk"].Path+"/a"); mode != fs.ModeDir|0o777 {
		t.Errorf("mode of a made directory: %v", mode)
	}
	if again, err := sub("disk", "a/b"); err != nil || again != dir {
		t.Errorf("again: %v", err)
	}
	// What a container may do: replace the directory by links out of the volume.
	for link, target := range map[string]string{"abs": "/etc", "up": "../../../../../../etc", "ok": "a"} {
		if err := os.Symlink(target, paths["disk"].Path+"/"+link); err != nil {
			t.Fatal(err)
		}
		_, err := sub("disk", link)
		if (err == nil) != (link == "ok") {
			t.Errorf("link %s: %v", link, err)
		}
	}
	for _, path := range []string{"../x", "/etc", "a/../../x", "abs/new"} {
		if _, err := sub("disk", path); err == nil {
			t.Errorf("%q was accepted", path)
		}
	}
	// A subPath whose directory was replaced shows the new one after the next start.
	if err := os.Rename(paths["disk"].Path+"/a", paths["disk"].Path+"/old"); err != nil {
		t.Fatal(err)
	}
	if dir, err = sub("disk", "a/b"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir + "/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("shows the former directory: %v", err)
	}
}

// only tells of one pod that there is.
func only(uid types.UID) func(types.UID) bool { return func(u types.UID) bool { return u == uid } }
