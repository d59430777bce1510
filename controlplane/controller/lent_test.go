package controller

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
)

// seen counts the pods that a handler is told of.
type seen struct{ atomic.Int32 }

func (s *seen) handler() cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{AddFunc: func(any) { s.Add(1) }}
}

// TestLentPods: handlers of the borrower get pods from its start to its end, of one watch for both, and the lender's go on.
func TestLentPods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := fake.NewClientset(named("first"))
		lender, borrower := informers.NewSharedInformerFactory(client, 0), informers.NewSharedInformerFactory(client, 0)
		LendPods(borrower, lender)
		var own, early, late, gone, removed seen
		pods := borrower.Core().V1().Pods()
		register(t, lender.Core().V1().Pods().Informer(), &own)
		lending, stopLending := context.WithCancel(t.Context())
		lender.StartWithContext(lending)
		lender.WaitForCacheSyncWithContext(lending)

		handle := register(t, pods.Informer(), &early)
		if err := pods.Informer().RemoveEventHandler(register(t, pods.Informer(), &removed)); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		if early.Load() != 0 || handle.HasSynced() || cache.IsDone(handle.HasSyncedChecker()) {
			t.Errorf("told of %d pods before the start, synced %v", early.Load(), handle.HasSynced())
		}

		borrowing, stop := context.WithCancel(t.Context())
		borrower.StartWithContext(borrowing)
		borrower.WaitForCacheSyncWithContext(borrowing)
		register(t, pods.Informer(), &late)
		leaves := register(t, pods.Informer(), &gone)
		synctest.Wait()
		if early.Load() != 1 || late.Load() != 1 || gone.Load() != 1 || !handle.HasSynced() || !cache.IsDone(handle.HasSyncedChecker()) {
			t.Errorf("told of %d, %d and %d pods at the start, synced %v", early.Load(), late.Load(), gone.Load(), handle.HasSynced())
		}
		if err := pods.Informer().RemoveEventHandler(leaves); err != nil {
			t.Error(err)
		}
		create(t, client, "second")
		if p, err := pods.Lister().Pods("ns").Get("second"); err != nil || p.Name != "second" {
			t.Errorf("the lister has %v, %v", p, err)
		}
		if own.Load() != 2 || early.Load() != 2 || late.Load() != 2 || gone.Load() != 1 || removed.Load() != 0 {
			t.Errorf("told of %d, %d, %d, %d and %d", own.Load(), early.Load(), late.Load(), gone.Load(), removed.Load())
		}

		stop()
		borrower.Shutdown()
		create(t, client, "third")
		if own.Load() != 3 || early.Load() != 2 || late.Load() != 2 {
			t.Errorf("after the end: told of %d, %d and %d", own.Load(), early.Load(), late.Load())
		}
		if _, err := pods.Informer().AddEventHandler(late.handler()); err == nil {
			t.Error("a handler was taken after the end")
		}
		watches := 0
		for _, a := range client.Actions() {
			if a.Matches("watch", "pods") {
				watches++
			}
		}
		if watches != 1 {
			t.Errorf("%d watches of pods", watches)
		}
		stopLending()
		lender.Shutdown()
	})
}

func named(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}}
}

func register(t *testing.T, i cache.SharedIndexInformer, s *seen) cache.ResourceEventHandlerRegistration {
	t.Helper()
	handle, err := i.AddEventHandler(s.handler())
	if err != nil {
		t.Fatal(err)
	}
	return handle
}

func create(t *testing.T, c kubernetes.Interface, name string) {
	t.Helper()
	if _, err := c.CoreV1().Pods("ns").Create(t.Context(), named(name), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}
