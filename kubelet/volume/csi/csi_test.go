package csi_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/ptr"

	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/csi/csitest"
)

func provision(t *testing.T, d *csitest.Driver, id string) {
	t.Helper()
	if err := d.Provision(id, 1<<30); err != nil {
		t.Fatal(err)
	}
}

func TestTwoPodsShareAVolumeAndAKubeletThatStartsAgainAsksForNothing(t *testing.T) {
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "key"}, Data: map[string][]byte{"k": []byte("v")}}
	objects := append(bound("a", func(_ *v1.PersistentVolumeClaim, p *v1.PersistentVolume) {
		p.Spec.MountOptions = []string{"noatime"}
		p.Spec.CSI.NodePublishSecretRef = &v1.SecretReference{Namespace: "ns", Name: "key"}
	}), secret)
	w := newWorld(t, csitest.Options{Node: stages}, objects...)
	provision(t, w.driver, "h-a")
	one, two := pod("one", claimVolume("a")), pod("two", claimVolume("a"))
	two.Spec.Volumes[0].PersistentVolumeClaim.ReadOnly = true
	at, err := w.Setup(t.Context(), one)
	target := filepath.Join(w.root, "pods/uid-one/volumes/kubernetes.io~csi/pv-a/mount")
	if err != nil || at["data"] != (volume.Place{Path: target, Relabel: true}) {
		t.Fatalf("%+v, %v", at, err)
	}
	if at, err := w.Setup(t.Context(), two); err != nil || !at["data"].ReadOnly {
		t.Fatalf("%+v, %v", at, err)
	}
	use := w.Usage(t.Context(), one.UID)
	if len(use) != 1 || use[0].Name != "data" || *use[0].PVCRef != (v1alpha1.PVCReference{Namespace: "ns", Name: "a"}) || *use[0].CapacityBytes != 1<<30 || *use[0].UsedBytes != 1<<29 || *use[0].InodesFree != 99 {
		t.Errorf("usage %+v", use)
	}
	v, _ := w.driver.Volume("h-a")
	p := v.Published[target]
	if len(v.Published) != 2 || p.Context["color"] != "blue" || p.Secrets["k"] != "v" || p.Capability.GetMount().GetFsType() != "ext4" ||
		!slices.Equal(p.Capability.GetMount().GetMountFlags(), []string{"noatime"}) {
		t.Errorf("published %+v", v)
	}
	if !strings.HasPrefix(v.Staged, w.root+"/plugins/kubernetes.io/csi/"+driverName+"/") || !strings.HasSuffix(v.Staged, "/globalmount") {
		t.Errorf("staged at %s", v.Staged)
	}
	if got := w.kind.InUse(); !slices.Equal(got, []v1.UniqueVolumeName{"kubernetes.io/csi/" + driverName + "^h-a"}) {
		t.Errorf("in use: %v", got)
	}
	raw, err := os.ReadFile(filepath.Join(filepath.Dir(target), "vol_data.json"))
	if err != nil || strings.Contains(string(raw), `"v"`) {
		t.Errorf("the journal holds a secret, or is not there: %s %v", raw, err)
	}

	w.stop()
	w.kubelet()
	calls := w.driver.Count("NodePublishVolume") + w.driver.Count("NodeStageVolume")
	if _, err := w.Setup(t.Context(), one); err != nil {
		t.Errorf("without its driver, a volume that is mounted: %v", err)
	}
	if now := w.driver.Count("NodePublishVolume") + w.driver.Count("NodeStageVolume"); now != calls {
		t.Errorf("the driver was asked %d times more", now-calls)
	}
	if err := w.Retain(t.Context(), only("uid-one")); err == nil || !strings.Contains(err.Error(), "driver name disk.example.org not found in the list of registered CSI drivers") {
		t.Errorf("a pod's volume was given back to a driver that is away: %v", err)
	}
	w.register()
	if err := w.Retain(t.Context(), only("uid-one")); err != nil {
		t.Fatal(err)
	}
	if v, _ := w.driver.Volume("h-a"); len(v.Published) != 1 || v.Staged == "" {
		t.Errorf("after the second pod: %+v", v)
	}
	if err := w.Teardown(t.Context(), one.UID); err != nil {
		t.Fatal(err)
	}
	w.clean()
}

func TestEachFailureCanBeUndone(t *testing.T) {
	for _, method := range []string{"NodeStageVolume", "NodePublishVolume", "NodeGetCapabilities"} {
		for _, code := range []codes.Code{codes.Internal, codes.DeadlineExceeded} {
			w := newWorld(t, csitest.Options{Node: stages}, bound("a", nil)...)
			provision(t, w.driver, "h-a")
			w.driver.Fail(method, status.Error(code, "disk on fire"))
			p := pod("one", claimVolume("a"))
			_, err := w.Setup(t.Context(), p)
			all := volume.Failures(err)
			if len(all) != 1 || all[0].Reason != "FailedMount" || !strings.Contains(all[0].Message, `failed for volume "pv-a" : `) || !strings.Contains(all[0].Message, "disk on fire") {
				t.Errorf("%s: events %q", method, all)
			}
			w.driver.Fail(method, nil)
			if code == codes.Internal {
				if _, err := w.Setup(t.Context(), p); err != nil {
					t.Errorf("%s: second attempt: %v", method, err)
				}
			}
			w.driver.Fail("NodeUnpublishVolume", status.Error(code, "still busy"))
			if err := w.Teardown(t.Context(), p.UID); (err == nil) != (w.driver.Count("NodeUnpublishVolume") == 0) {
				t.Errorf("%s: teardown while the driver fails: %v", method, err)
			}
			w.driver.Fail("NodeUnpublishVolume", nil)
			if err := w.Teardown(t.Context(), p.UID); err != nil {
				t.Errorf("%s: %v", method, err)
			}
			w.clean()
		}
	}
}

func TestInlineVolume(t *testing.T) {
	inline := v1.Volume{Name: "scratch", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: driverName, VolumeAttributes: map[string]string{"size": "1"}}}}
	for _, inSecrets := range []bool{false, true} {
		w := newWorld(t, csitest.Options{Node: stages}, object(func(s *storagev1.CSIDriverSpec) {
			s.PodInfoOnMount, s.ServiceAccountTokenInSecrets = ptr.To(true), &inSecrets
			s.TokenRequests = []storagev1.TokenRequest{{Audience: "vault"}}
			s.RequiresRepublish = ptr.To(true)
		}))
		p := pod("one", inline)
		at, err := w.Setup(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		published := func() csitest.Publication {
			for _, id := range w.driver.InUse() {
				name, _, _ := strings.Cut(id, " ")
				v, _ := w.driver.Volume(name)
				return v.Published[at["scratch"].Path]
			}
			return csitest.Publication{}
		}
		pub := published()
		want := map[string]string{"size": "1", "csi.storage.k8s.io/pod.name": "one", "csi.storage.k8s.io/pod.namespace": "ns", "csi.storage.k8s.io/pod.uid": "uid-one",
			"csi.storage.k8s.io/serviceAccount.name": "sa", "csi.storage.k8s.io/ephemeral": "true"}
		for k, v := range want {
			if pub.Context[k] != v {
				t.Errorf("%s is %q, want %q", k, pub.Context[k], v)
			}
		}
		const key = "csi.storage.k8s.io/serviceAccount.tokens"
		raw, other := pub.Context[key], pub.Secrets[key]
		if inSecrets {
			raw, other = other, raw
		}
		var tokens map[string]authv1.TokenRequestStatus
		if err := json.Unmarshal([]byte(raw), &tokens); err != nil || tokens["vault"].Token != "one-vault" || other != "" {
			t.Errorf("tokens %q, elsewhere %q: %v", raw, other, err)
		}
		before := w.driver.Count("NodePublishVolume")
		if _, err := w.Setup(t.Context(), p); err != nil || w.driver.Count("NodePublishVolume") != before+1 {
			t.Errorf("not published again for a driver that wants it: %v", err)
		}
		w.driver.Fail("NodePublishVolume", status.Error(codes.Internal, "no"))
		if _, err := w.Setup(t.Context(), p); err != nil || len(w.driver.InUse()) != 1 {
			t.Errorf("a pod lost its volume when publishing again failed: %v", err)
		}
		w.driver.Fail("NodePublishVolume", nil)
		if err := w.Teardown(t.Context(), p.UID); err != nil {
			t.Fatal(err)
		}
		w.clean()
	}
	w := newWorld(t, csitest.Options{}, object(func(s *storagev1.CSIDriverSpec) { s.VolumeLifecycleModes = nil }))
	_, err := w.Setup(t.Context(), pod("one", inline))
	if err == nil || !strings.Contains(err.Error(), `volume mode "Ephemeral" not supported by driver disk.example.org (only supports ["Persistent"])`) {
		t.Errorf("an inline volume of a driver that has none: %v", err)
	}
}

func TestBlockDevice(t *testing.T) {
	w := newWorld(t, csitest.Options{Node: stages}, bound("a", func(_ *v1.PersistentVolumeClaim, p *v1.PersistentVolume) {
		p.Spec.VolumeMode = ptr.To(v1.PersistentVolumeBlock)
	})...)
	provision(t, w.driver, "h-a")
	p := pod("one", claimVolume("a"))
	p.Spec.Containers = []v1.Container{{VolumeDevices: []v1.VolumeDevice{{Name: "data", DevicePath: "/dev/x"}}}}
	at, err := w.Setup(t.Context(), p)
	want := volume.Place{Path: w.root + "/plugins/kubernetes.io/csi/volumeDevices/publish/pv-a/uid-one", Device: true}
	if err != nil || at["data"] != want {
		t.Fatalf("%+v, %v", at, err)
	}
	if v, _ := w.driver.Volume("h-a"); !v.Published[want.Path].Block || v.Staged != w.root+"/plugins/kubernetes.io/csi/volumeDevices/staging/pv-a" {
		t.Errorf("%+v", v)
	}
	if err := w.Teardown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	w.clean()
	p.Spec.Containers[0] = v1.Container{VolumeMounts: []v1.VolumeMount{{Name: "data", MountPath: "/x"}}}
	if _, err := w.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), "volume data has volumeMode Block, but is specified in volumeMounts") {
		t.Errorf("a device was to be mounted: %v", err)
	}
}

func TestWaitsUntilTheVolumeIsAttached(t *testing.T) {
	w := newWorld(t, csitest.Options{Node: stages, Attach: true}, append(bound("a", nil), object(func(s *storagev1.CSIDriverSpec) { s.AttachRequired = nil }))...)
	provision(t, w.driver, "h-a")
	p := pod("one", claimVolume("a"))
	done := make(chan error)
	go func() {
		_, err := w.Setup(t.Context(), p)
		done <- err
	}()
	// The cluster's part: the attacher makes the VolumeAttachment and the driver's controller attaches.
	api := w.client.StorageV1().VolumeAttachments()
	name := "csi-" + sum("h-a"+driverName+"node")
	a, err := api.Create(t.Context(), &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	default:
	}
	context, err := w.driver.Attach("h-a", "node-id")
	if err != nil {
		t.Fatal(err)
	}
	a.Status = storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: context}
	if _, err := api.UpdateStatus(t.Context(), a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for len(w.kind.InUse()) == 0 { // it is attached, and noted
		time.Sleep(time.Millisecond)
	}
	if w.driver.Count("NodeStageVolume") != 0 {
		t.Error("staged before the API knew that the volume is in use")
	}
	w.report()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if err := w.Teardown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	w.clean()
	a.Status = storagev1.VolumeAttachmentStatus{AttachError: &storagev1.VolumeError{Message: "no free slot"}}
	if _, err := api.UpdateStatus(t.Context(), a, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Setup(t.Context(), p); err == nil || !strings.Contains(err.Error(), `MountVolume.WaitForAttach failed for volume "pv-a" : `) || !strings.Contains(err.Error(), "no free slot") {
		t.Errorf("not attached: %v", err)
	}
}

func TestVolumeGrows(t *testing.T) {
	w := newWorld(t, csitest.Options{Node: stages}, bound("a", func(c *v1.PersistentVolumeClaim, _ *v1.PersistentVolume) {
		c.Status.Conditions = []v1.PersistentVolumeClaimCondition{{Type: v1.PersistentVolumeClaimFileSystemResizePending, Status: v1.ConditionTrue}}
	})...)
	provision(t, w.driver, "h-a")
	p := pod("one", claimVolume("a"))
	if _, err := w.Setup(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if w.driver.Count("NodeExpandVolume") != 0 {
		t.Error("grew without reason")
	}
	pv, err := w.client.CoreV1().PersistentVolumes().Get(t.Context(), "pv-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pv.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("3Gi")
	if _, err := w.client.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	claimed := func() v1.PersistentVolumeClaimStatus {
		c, err := w.client.CoreV1().PersistentVolumeClaims("ns").Get(t.Context(), "a", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c.Status
	}
	w.refresh(t, func() bool { got := claimed().Capacity[v1.ResourceStorage]; return got.String() == "3Gi" })
	if st := claimed(); len(st.AllocatedResourceStatuses) != 0 || len(st.Conditions) != 0 {
		t.Errorf("the claim still says %+v", st)
	}
	if v, _ := w.driver.Volume("h-a"); v.Size != 3<<30 {
		t.Errorf("the volume has %d bytes", v.Size)
	}
	if !slices.Contains(w.told(), `FileSystemResizeSuccessful MountVolume.NodeExpandVolume succeeded for volume "pv-a"`) {
		t.Errorf("events %q", w.told())
	}
	// A size that is not possible is not tried for ever.
	w.driver.Fail("NodeExpandVolume", status.Error(codes.OutOfRange, "too large"))
	pv.Spec.Capacity[v1.ResourceStorage] = resource.MustParse("9Gi")
	if _, err := w.client.CoreV1().PersistentVolumes().Update(t.Context(), pv, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.refresh(t, func() bool {
		return claimed().AllocatedResourceStatuses[v1.ResourceStorage] == v1.PersistentVolumeClaimNodeResizeInfeasible
	})
	tried := w.driver.Count("NodeExpandVolume")
	if _, err := w.Setup(t.Context(), p); err != nil || w.driver.Count("NodeExpandVolume") != tried {
		t.Errorf("tried again: %v", err)
	}
	if err := w.Teardown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	w.clean()
}

func TestOnePodAtATime(t *testing.T) {
	w := newWorld(t, csitest.Options{Node: stages}, bound("a", func(_ *v1.PersistentVolumeClaim, p *v1.PersistentVolume) {
		p.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
	})...)
	provision(t, w.driver, "h-a")
	one, two := pod("one", claimVolume("a")), pod("two", claimVolume("a"))
	if _, err := w.Setup(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Setup(t.Context(), two); err == nil || !strings.Contains(err.Error(), "volume uses the ReadWriteOncePod access mode and is already in use by another pod") {
		t.Errorf("a second pod: %v", err)
	}
	for _, step := range []func() error{
		func() error { return w.Teardown(t.Context(), one.UID) },
		func() error { _, err := w.Setup(t.Context(), two); return err },
		func() error { return w.Teardown(t.Context(), two.UID) },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
	w.clean()
}

// only tells of one pod that there is.
func only(uid types.UID) func(types.UID) bool { return func(u types.UID) bool { return u == uid } }

// TestNothingIsAttached: where the cluster attaches nothing, a volume that has to be attached fails at once and in upstream's words,
// and one that need not be works.
func TestNothingIsAttached(t *testing.T) {
	for _, required := range []bool{true, false} {
		w := newWorld(t, csitest.Options{Node: stages}, append(bound("a", nil), object(func(s *storagev1.CSIDriverSpec) { s.AttachRequired = &required }))...)
		w.stop()
		w.noAttach = true
		w.kubelet()
		w.register()
		w.report()
		provision(t, w.driver, "h-a")
		p := pod("one", claimVolume("a"))
		_, err := w.Setup(t.Context(), p)
		if !required {
			if err != nil || w.driver.Count("NodePublishVolume") != 1 {
				t.Errorf("not to be attached: %v", err)
			}
		} else if all := volume.Failures(err); len(all) != 1 || all[0].Reason != "FailedAttachVolume" ||
			all[0].Message != `AttachVolume.Attach failed for volume "pv-a" : attaching volumes from the kubelet is not supported` {
			t.Errorf("to be attached: %+v", all)
		}
		if err := w.Teardown(t.Context(), p.UID); err != nil {
			t.Fatal(err)
		}
		w.clean()
		if n := len(w.kind.InUse()); n != 0 {
			t.Errorf("%d in use", n)
		}
	}
}
