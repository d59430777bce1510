package apiserver_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-node/skiff/controlplane/apiserver/apiservertest"
)

// eventually polls until check returns nil.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: %v", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "image:1"}}},
	}
}

func TestLifeOfAPod(t *testing.T) {
	e := apiservertest.Start(t, nil)
	ctx := context.Background()
	c := kubernetes.NewForConfigOrDie(e.Admin(t))

	eventually(t, "default service account", func() error {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
		_, err := c.CoreV1().ServiceAccounts("default").Create(ctx, sa, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
	w, err := c.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	p, err := c.CoreV1().Pods("default").Create(ctx, pod("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if p.Status.Phase != corev1.PodPending || p.Status.QOSClass != corev1.PodQOSBestEffort || p.Spec.DNSPolicy != corev1.DNSClusterFirst {
		t.Errorf("defaults: %+v", p)
	}
	if len(p.Spec.Volumes) != 1 || p.Spec.Volumes[0].Projected == nil {
		t.Errorf("no token volume: %+v", p.Spec.Volumes)
	}
	if ev := <-w.ResultChan(); ev.Type != "ADDED" || ev.Object.(*corev1.Pod).Name != "a" {
		t.Errorf("watch: %+v", ev)
	}
	bind := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err := c.CoreV1().Pods("default").Bind(ctx, bind, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if ev := <-w.ResultChan(); ev.Object.(*corev1.Pod).Spec.NodeName != "n" {
		t.Errorf("watch: %+v", ev)
	}
	if err := c.CoreV1().Pods("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	p, err = c.CoreV1().Pods("default").Get(ctx, "a", metav1.GetOptions{})
	if err != nil || p.DeletionTimestamp == nil || *p.DeletionGracePeriodSeconds != 30 {
		t.Errorf("a bound pod is deleted gracefully: %v, %+v", err, p)
	}
	bad := pod("b")
	bad.Spec.Containers[0].Name = "Not A Name"
	if _, err := c.CoreV1().Pods("default").Create(ctx, bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("invalid pod: %v", err)
	}
	v, err := c.Discovery().ServerVersion()
	if err != nil || v.GitVersion != "v1.37.2+skiff" {
		t.Errorf("version: %v, %v", v, err)
	}
}
