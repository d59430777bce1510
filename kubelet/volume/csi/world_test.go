package csi_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	csipb "github.com/container-storage-interface/spec/lib/go/csi"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/skiff-node/skiff/kubelet/plugin"
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/claim"
	"github.com/skiff-node/skiff/kubelet/volume/csi"
	"github.com/skiff-node/skiff/kubelet/volume/csi/csitest"
	"github.com/skiff-node/skiff/kubelet/volume/selinux"
)

const driverName = "disk.example.org"

// stages are what the driver of most tests can do.
var stages = []csipb.NodeServiceCapability_RPC_Type{csipb.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME,
	csipb.NodeServiceCapability_RPC_EXPAND_VOLUME, csipb.NodeServiceCapability_RPC_GET_VOLUME_STATS, csipb.NodeServiceCapability_RPC_SINGLE_NODE_MULTI_WRITER}

// world is a kubelet's volumes with a driver and an API that the test holds.
type world struct {
	*volume.Manager
	t       *testing.T
	root    string
	client  *fake.Clientset
	driver  *csitest.Driver
	drivers *csi.Drivers
	kind    *csi.Kind
	stop    func()

	mu       sync.Mutex
	events   []string
	reported bool
	labels   selinux.Labels // nil: this machine's
	noAttach bool
}

// Reported is the node's status, which the test changes.
func (w *world) Reported(v1.UniqueVolumeName) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.reported {
		return errors.New("is not reported")
	}
	return nil
}

func (w *world) report() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reported = true
}

func (w *world) Normal(_ *v1.Pod, _, reason, format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = append(w.events, reason+" "+fmt.Sprintf(format, args...))
}

func (w *world) Warning(p *v1.Pod, c, reason, format string, args ...any) {
	w.Normal(p, c, reason, format, args...)
}

func (w *world) Request(_ context.Context, pod *v1.Pod, want *v1.ServiceAccountTokenProjection) (authv1.TokenRequestStatus, error) {
	return authv1.TokenRequestStatus{Token: pod.Name + "-" + want.Audience, ExpirationTimestamp: metav1.Unix(1000, 0)}, nil
}

// newWorld starts a driver, and a kubelet that knows it. The objects are the API's, beside a Node and a CSIDriver that needs
// no attaching and takes all sorts of volumes unless there is one among the objects.
func newWorld(t *testing.T, opts csitest.Options, objects ...runtime.Object) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "csi") // paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	opts.Name = driverName
	w := &world{t: t, root: root}
	objects = append(objects, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "node-uid"}})
	if !hasDriver(objects) {
		objects = append(objects, object(nil))
	}
	w.client = fake.NewClientset(objects...)
	if w.driver, err = csitest.Start(w.socket(), opts); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.driver.Stop)
	w.kubelet()
	t.Cleanup(func() { w.stop() })
	w.register()
	return w
}

func hasDriver(objects []runtime.Object) bool {
	for _, o := range objects {
		if _, ok := o.(*storagev1.CSIDriver); ok {
			return true
		}
	}
	return false
}

func object(change func(*storagev1.CSIDriverSpec)) *storagev1.CSIDriver {
	d := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(false),
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}}}
	if change != nil {
		change(&d.Spec)
	}
	return d
}

func (w *world) socket() string { return filepath.Join(w.root, "csi.sock") }

// kubelet starts the kubelet's part, again after stop.
func (w *world) kubelet() {
	w.t.Helper()
	var err error
	if w.drivers, err = csi.NewDrivers(csi.DriversConfig{Client: w.client, Node: "node", Dial: plugin.Dial}); err != nil {
		w.t.Fatal(err)
	}
	if w.kind, err = csi.New(csi.Config{Root: w.root, Node: "node", Client: w.client, Drivers: w.drivers, Tokens: w, Events: w, Reported: w.Reported, Labels: w.labels, NoAttach: w.noAttach}); err != nil {
		w.t.Fatal(err)
	}
	if w.Manager, err = volume.New(volume.Config{Root: w.root, Kinds: []volume.Kind{w.kind}, Claims: claim.Finder{Client: w.client}, Period: 10 * time.Millisecond}); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.drivers.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		w.stop = func() {}
	}
}

func (w *world) register() {
	w.t.Helper()
	if err := w.drivers.Register(w.t.Context(), driverName, w.socket(), []string{"1.0.0"}); err != nil {
		w.t.Fatal(err)
	}
}

// clean says that nothing is left, in the driver and on disk, and that nothing wrong was asked of the driver.
func (w *world) clean() {
	w.t.Helper()
	if left := w.driver.InUse(); len(left) > 0 {
		w.t.Errorf("the driver still has %q", left)
	}
	if wrong := w.driver.Misuse(); len(wrong) > 0 {
		w.t.Errorf("the driver refused %q", wrong)
	}
	if used := w.kind.InUse(); len(used) > 0 {
		w.t.Errorf("in use: %v", used)
	}
	err := filepath.WalkDir(w.root, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Name() == "vol_data.json" {
			w.t.Errorf("left over: %s", path)
		}
		return err
	})
	if err != nil {
		w.t.Error(err)
	}
}

func pod(name string, volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}, Spec: v1.PodSpec{
		ServiceAccountName: "sa", Volumes: volumes}}
}

func claimVolume(name string) v1.Volume {
	return v1.Volume{Name: "data", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: name}}}
}

// bound returns a claim and its volume of the driver, whose handle is "h-" and the claim's name.
func bound(name string, change func(*v1.PersistentVolumeClaim, *v1.PersistentVolume)) []runtime.Object {
	size := v1.ResourceList{v1.ResourceStorage: resource.MustParse("1Gi")}
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name + "-uid")},
		Spec:   v1.PersistentVolumeClaimSpec{VolumeName: "pv-" + name},
		Status: v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound, Capacity: size.DeepCopy()}}
	p := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-" + name}, Spec: v1.PersistentVolumeSpec{
		Capacity: size, ClaimRef: &v1.ObjectReference{UID: c.UID}, AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce},
		PersistentVolumeSource: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{Driver: driverName, VolumeHandle: "h-" + name,
			FSType: "ext4", VolumeAttributes: map[string]string{"color": "blue"}}}}}
	if change != nil {
		change(c, p)
	}
	return []runtime.Object{c, p}
}

// refresh lets the manager look at live volumes until the test sees what it waits for.
func (w *world) refresh(t *testing.T, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	for !ok() && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	if ctx.Err() != nil {
		t.Error("not in time")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func (w *world) told() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.events...)
}

func sum(s string) string { return fmt.Sprintf("%x", sha256.Sum256([]byte(s))) }
