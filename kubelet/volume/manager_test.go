package volume_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/volume"
)

// shown is a live kind that tells the labels of each pod it is set up for.
type shown chan map[string]string

func (shown) Name() string                  { return "shown" }
func (shown) Handles(*v1.VolumeSource) bool { return true }
func (shown) Live()                         {}

func (s shown) Setup(_ context.Context, req volume.Request) (volume.Place, error) {
	s <- req.Pod.Labels
	return volume.Place{Path: req.Dir}, nil
}

func TestUpdateRefreshesWhatShowsThePod(t *testing.T) {
	kind := make(shown, 10)
	m, err := volume.New(volume.Config{Root: t.TempDir(), Kinds: []volume.Kind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u", Labels: map[string]string{"a": "1"}}, Spec: v1.PodSpec{Volumes: []v1.Volume{{Name: "v"}}}}
	m.Update(pod) // not set up yet: nothing to refresh
	if _, err := m.Setup(ctx, pod); err != nil {
		t.Fatal(err)
	}
	if got := <-kind; got["a"] != "1" {
		t.Errorf("set up with %v", got)
	}
	m.Update(pod.DeepCopy()) // the same labels: nothing to refresh
	newer := pod.DeepCopy()
	newer.Labels["a"] = "2"
	m.Update(newer)
	if got := <-kind; got["a"] != "2" {
		t.Errorf("refreshed with %v", got)
	}
	cancel()
	if err := <-done; err != nil || len(kind) != 0 {
		t.Errorf("%v; set up %d times too often", err, len(kind))
	}
}

func TestSourceName(t *testing.T) {
	if got := volume.SourceName(&v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}); got != "persistentVolumeClaim" {
		t.Errorf("got %q", got)
	}
}

func TestUIDsThatWouldLeaveTheRootAreRefused(t *testing.T) {
	m, err := volume.New(volume.Config{Root: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []types.UID{"", ".", "..", "a/b"} {
		if err := m.Teardown(t.Context(), uid); err == nil || !strings.Contains(err.Error(), "UID") {
			t.Errorf("%q: %v", uid, err)
		}
	}
}

// TestRemoved: it is told once a pod's directory is gone, whoever the pod was.
func TestRemoved(t *testing.T) {
	root := t.TempDir()
	dir := func(uid string) string { return filepath.Join(root, "pods", uid) }
	var told []types.UID
	m, err := volume.New(volume.Config{Root: root, Removed: func(uid types.UID) {
		if _, err := os.Stat(dir(string(uid))); err == nil {
			t.Errorf("the directory of %s is there still", uid)
		}
		told = append(told, uid)
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []string{"former", "new"} {
		if err := os.MkdirAll(dir(uid), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.Retain(t.Context(), func(uid types.UID) bool { return uid == "new" }); err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown(t.Context(), "new"); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(told, []types.UID{"former", "new"}) {
		t.Error(told)
	}
}

// slow is a kind whose driver takes its time to take back what it holds for a pod.
type slow struct {
	shown
	asked  chan types.UID
	answer chan struct{}
}

func (s slow) Release(_ context.Context, pod types.UID, _ string) error {
	s.asked <- pod
	<-s.answer
	return nil
}

// TestRetainBesideASlowDriver: a pod that comes while a driver takes its time with a former one keeps its directory, though that was
// found when it was not known.
func TestRetainBesideASlowDriver(t *testing.T) {
	root := t.TempDir()
	kind := slow{asked: make(chan types.UID), answer: make(chan struct{})}
	m, err := volume.New(volume.Config{Root: root, Kinds: []volume.Kind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	for _, uid := range []string{"1-former", "2-new", "3-former"} {
		if err := os.MkdirAll(filepath.Join(root, "pods", uid), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	var known atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- m.Retain(t.Context(), func(uid types.UID) bool { return known.Load() && uid == "2-new" })
	}()
	for _, want := range []types.UID{"1-former", "3-former"} {
		if uid := <-kind.asked; uid != want {
			t.Fatalf("%s was taken for a former pod", uid)
		}
		known.Store(true)
		kind.answer <- struct{}{}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if left, _ := filepath.Glob(filepath.Join(root, "pods", "*")); len(left) != 1 || filepath.Base(left[0]) != "2-new" {
		t.Error(left)
	}
}

// claims answers with one persistent volume.
type claims struct{ volume.Claimed }

func (c claims) Resolve(context.Context, *v1.Pod, *v1.Volume) (*volume.Claimed, error) {
	return &c.Claimed, nil
}

func (claims) Migrates(*v1.VolumeSource) bool { return false }

func TestVolumesOfTypesThatAreNotKnownAreRefusedByName(t *testing.T) {
	nfs := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv-1"}, Spec: v1.PersistentVolumeSpec{
		PersistentVolumeSource: v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{}}}}
	m, err := volume.New(volume.Config{Root: t.TempDir(), Claims: claims{volume.Claimed{Claim: &v1.PersistentVolumeClaim{}, Volume: nfs}}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = m.Setup(t.Context(), &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: v1.PodSpec{Volumes: []v1.Volume{
		{Name: "in", VolumeSource: v1.VolumeSource{ISCSI: &v1.ISCSIVolumeSource{}}},
		{Name: "claimed", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}}}}})
	for _, want := range []string{
		`MountVolume.SetUp failed for volume "in" : iscsi: volume kind is not supported by this kubelet`,
		`MountVolume.SetUp failed for volume "pv-1" : persistent volume of type nfs: volume kind is not supported by this kubelet`,
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in: %v", want, err)
		}
	}
}

// hangs is a live kind whose refresh of the pod "hung" ends only with its context.
type hangs struct {
	shown
	first map[types.UID]bool
}

func (h hangs) Setup(ctx context.Context, req volume.Request) (volume.Place, error) {
	if req.Pod.UID == "hung" && h.first[req.Pod.UID] {
		<-ctx.Done()
		return volume.Place{}, ctx.Err()
	}
	if req.Pod.UID == "hung" {
		h.first[req.Pod.UID] = true
	}
	return h.shown.Setup(ctx, req)
}

func TestAPodThatHangsDelaysNoOther(t *testing.T) {
	kind := hangs{make(shown, 10), map[types.UID]bool{}}
	m, err := volume.New(volume.Config{Root: t.TempDir(), Kinds: []volume.Kind{kind}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	for _, uid := range []types.UID{"hung", "u"} {
		if _, err := m.Setup(ctx, &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Labels: map[string]string{"uid": string(uid)}}, Spec: v1.PodSpec{Volumes: []v1.Volume{{Name: "v"}}}}); err != nil {
			t.Fatal(err)
		}
		<-kind.shown
	}
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	m.Changed([]types.UID{"hung"})
	for range 3 {
		m.Changed([]types.UID{"u"})
		if got := <-kind.shown; got["uid"] != "u" {
			t.Errorf("refreshed %v", got)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestVolumesOfAFormerKubeletAreKeptCurrent(t *testing.T) {
	root, kind := t.TempDir(), make(shown, 10)
	start := func() *volume.Manager {
		m, err := volume.New(volume.Config{Root: root, Kinds: []volume.Kind{kind}})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	pod := func(uid types.UID) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Labels: map[string]string{"uid": string(uid)}}, Spec: v1.PodSpec{Volumes: []v1.Volume{{Name: "v"}}}}
	}
	former := start()
	if _, err := former.Setup(t.Context(), pod("runs")); err != nil {
		t.Fatal(err)
	}
	<-kind
	if err := os.MkdirAll(former.Dir("runs", "shown", "v"), 0o700); err != nil {
		t.Fatal(err)
	}
	m := start()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	m.Update(pod("new")) // its worker will set it up
	m.Update(pod("runs"))
	if got := <-kind; got["uid"] != "runs" {
		t.Errorf("set up for %v", got)
	}
	cancel()
	if err := <-done; err != nil || len(kind) != 0 {
		t.Errorf("%v; set up %d times too often", err, len(kind))
	}
}
