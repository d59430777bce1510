package podsapi

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// kubelet holds pods as the workers do, and the statuses that reach the writer.
type kubelet struct {
	mu   sync.Mutex
	pods []*v1.Pod
	set  []string
}

func (k *kubelet) Pods() []*v1.Pod {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out []*v1.Pod
	for _, p := range k.pods {
		out = append(out, p.DeepCopy())
	}
	return out
}

func (k *kubelet) Set(p *v1.Pod, st v1.PodStatus)         { k.set = append(k.set, p.Name+" "+string(st.Phase)) }
func (k *kubelet) Flush(context.Context, types.UID) error { return nil }
func (k *kubelet) Forget(uid types.UID)                   { k.set = append(k.set, "forget "+string(uid)) }

func pod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, UID: types.UID("uid-" + name)}, Spec: v1.PodSpec{NodeName: "node"}}
}

func phase(p v1.PodPhase) v1.PodStatus { return v1.PodStatus{Phase: p} }

func show(t *testing.T, raw []byte) string {
	t.Helper()
	var p v1.Pod
	if err := p.Unmarshal(raw); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s/%s %s on %q", p.Namespace, p.Name, p.Status.Phase, p.Spec.NodeName)
}

func serve(t *testing.T, k *kubelet, known chan struct{}) (*Server, api.PodsClient) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "api", "pods.sock")
	s := New(Config{Socket: socket, Pods: k.Pods, Known: known, Statuses: k})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s, api.NewPodsClient(conn)
}

func TestListAndGet(t *testing.T) {
	b := pod("b")
	b.Status = phase(v1.PodRunning)
	k, known := &kubelet{pods: []*v1.Pod{b, pod("a")}}, make(chan struct{})
	_, client := serve(t, k, known)
	if _, err := client.ListPods(t.Context(), &api.ListPodsRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("before all sources are read: %v", err)
	}
	close(known)
	list, err := client.ListPods(t.Context(), &api.ListPodsRequest{})
	if err != nil || len(list.Pods) != 2 || show(t, list.Pods[0]) != `n/a Pending on "node"` || show(t, list.Pods[1]) != `n/b Running on "node"` {
		t.Errorf("%v, %v", list, err)
	}
	one, err := client.GetPod(t.Context(), &api.GetPodRequest{PodUID: "uid-b"})
	if err != nil || show(t, one.Pod) != `n/b Running on "node"` {
		t.Errorf("%v, %v", one, err)
	}
	if _, err := client.GetPod(t.Context(), &api.GetPodRequest{PodUID: "z"}); status.Code(err) != codes.NotFound || !strings.Contains(err.Error(), "pod with UID z not found") {
		t.Errorf("%v", err)
	}
}

func TestWatch(t *testing.T) {
	a := pod("a")
	k, known := &kubelet{pods: []*v1.Pod{a}}, make(chan struct{})
	close(known)
	s, client := serve(t, k, known)
	stream, err := client.WatchPods(t.Context(), &api.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(kind api.EventType, want string) {
		t.Helper()
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if got := show(t, e.Pod); e.Type != kind || (len(e.Pod) > 0 || want != "") && got != want {
			t.Errorf("%s %s, want %s %s", e.Type, got, kind, want)
		}
	}
	expect(api.EventType_ADDED, `n/a Pending on "node"`)
	expect(api.EventType_INITIAL_SYNC_COMPLETE, "")
	s.Set(a, phase(v1.PodRunning))
	expect(api.EventType_MODIFIED, `n/a Running on "node"`)
	for range 3 { // a worker tells what it finds each time
		s.Set(a, phase(v1.PodRunning))
	}
	s.Set(pod("b"), phase(v1.PodPending))
	expect(api.EventType_ADDED, `n/b Pending on "node"`)
	s.Forget(a.UID)
	expect(api.EventType_DELETED, `n/a  on ""`)
	// What is not read yet is told of once, in its last state; b ends so.
	for range 1000 {
		s.Set(pod("b"), phase(v1.PodRunning))
	}
	s.Set(pod("b"), phase(v1.PodSucceeded))
	s.Forget("uid-b")
	for {
		e, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.Type == api.EventType_DELETED {
			break
		}
		if e.Type != api.EventType_MODIFIED {
			t.Errorf("%s", e.Type)
		}
	}
	if k.set[0] != "a Running" || k.set[len(k.set)-1] != "forget uid-b" {
		t.Errorf("passed on: %q", k.set)
	}
}
