package objects

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

func TestReferences(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns"}, Spec: v1.PodSpec{
		ImagePullSecrets: []v1.LocalObjectReference{{Name: "pull"}},
		InitContainers: []v1.Container{{EnvFrom: []v1.EnvFromSource{
			{ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "env"}}}}}},
		Containers: []v1.Container{{Env: []v1.EnvVar{{Name: "A", Value: "b"}, {Name: "K", ValueFrom: &v1.EnvVarSource{
			SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "key"}}}}}}},
		Volumes: []v1.Volume{
			{VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "vol"}}}},
			{VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
				{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "proj"}}}}}}},
			{VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		},
	}}
	want := []string{"configmap ns/env", "configmap ns/vol", "secret ns/key", "secret ns/proj", "secret ns/pull"}
	var got []string
	for ref := range References(pod) {
		got = append(got, ref.String())
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("references %q, want %q", got, want)
	}
}

func pod(uid, configMap string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: uid, UID: types.UID(uid)}, Spec: v1.PodSpec{
		Volumes: []v1.Volume{{VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{
			LocalObjectReference: v1.LocalObjectReference{Name: configMap}}}}}}}
}

func configMap(name, rv, value string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: rv}, Data: map[string]string{"k": value}}
}

// wakes collects what Changed was told.
type wakes struct {
	mu   sync.Mutex
	uids []types.UID
}

func (w *wakes) changed(uids []types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.uids = append(w.uids, uids...)
}

func (w *wakes) take() []types.UID {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := w.uids
	w.uids = nil
	return out
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

func TestFollowsAnObject(t *testing.T) {
	client := fake.NewClientset(configMap("cm", "1", "one"))
	var w wakes
	c, err := New(Config{Client: client, Changed: w.changed})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Register(pod("a", "cm"))
	got, err := c.ConfigMap(t.Context(), "ns", "cm")
	if err != nil || got.Data["k"] != "one" {
		t.Fatalf("first read: %v, %v", got, err)
	}
	eventually(t, "the watch begins", func() bool {
		return slices.ContainsFunc(client.Actions(), func(a clienttesting.Action) bool { return a.GetVerb() == "watch" })
	})
	w.take()
	if _, err := client.CoreV1().ConfigMaps("ns").Update(t.Context(), configMap("cm", "2", "two"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the update arrives", func() bool {
		got, err := c.ConfigMap(t.Context(), "ns", "cm")
		return err == nil && got.Data["k"] == "two"
	})
	eventually(t, "the pod is woken", func() bool { return slices.Contains(w.take(), "a") })
	if err := client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the deletion arrives", func() bool {
		_, err := c.ConfigMap(t.Context(), "ns", "cm")
		return apierrors.IsNotFound(err)
	})
}

func TestWatchEndsWithItsLastUser(t *testing.T) {
	client := fake.NewClientset(configMap("cm", "1", "one"))
	c, err := New(Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	c.Register(pod("a", "cm"))
	c.Register(pod("b", "cm"))
	c.Register(pod("b", "other"))
	c.Unregister("unknown")
	if len(c.entries) != 2 {
		t.Errorf("entries %v, want 2", c.entries)
	}
	c.Unregister("a")
	c.Unregister("b")
	if len(c.entries) != 0 || len(c.pods) != 0 {
		t.Errorf("left over: %v %v", c.entries, c.pods)
	}
	c.Close()
	c.Close()
}

func TestRefusalAtFirstIsTriedAgain(t *testing.T) {
	client := fake.NewClientset(configMap("cm", "1", "one"))
	var mu sync.Mutex
	refusals := 3
	client.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		refusals--
		if refusals < 0 {
			return false, nil, nil
		}
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "cm", errors.New("no relationship found"))
	})
	c, err := New(Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Register(pod("a", "cm"))
	if got, err := c.ConfigMap(t.Context(), "ns", "cm"); err != nil || got.Data["k"] != "one" {
		t.Fatalf("read: %v, %v", got, err)
	}
}

func TestReadThatIsLateNamesTheServersError(t *testing.T) {
	client := fake.NewClientset()
	client.PrependReactor("list", "configmaps", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: "configmaps"}, "cm", errors.New("no"))
	})
	c, err := New(Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Register(pod("a", "cm"))
	eventually(t, "the refusal shows", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := c.ConfigMap(ctx, "ns", "cm")
		return apierrors.IsForbidden(err)
	})
}

func TestImmutableNeedsNoWatch(t *testing.T) {
	cm := configMap("cm", "1", "one")
	cm.Immutable = ptr.To(true)
	client := fake.NewClientset(cm)
	c, err := New(Config{Client: client})
	if err != nil {
		t.Fatal(err)
	}
	c.Register(pod("a", "cm"))
	if _, err := c.ConfigMap(t.Context(), "ns", "cm"); err != nil {
		t.Fatal(err)
	}
	c.group.Wait() // the watcher ended by itself
	for _, a := range client.Actions() {
		if a.GetVerb() == "watch" {
			t.Errorf("watched an immutable object")
		}
	}
	c.Close()
}
