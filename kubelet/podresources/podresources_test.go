package podresources

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
	alpha "k8s.io/kubelet/pkg/apis/podresources/v1alpha1"

	"golang.org/x/time/rate"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

// source gives two CPUs of three to each main container.
type source struct{}

func (source) Container(_ *v1.Pod, container string, out *api.ContainerResources) {
	if container == "main" {
		out.CpuIds = []int64{2, 3}
		out.Devices = append(out.Devices, &api.ContainerDevices{ResourceName: "x.y/z", DeviceIds: []string{"d"}})
	}
}

func (source) Allocatable(out *api.AllocatableResourcesResponse) { out.CpuIds = []int64{1, 2, 3} }

func TestServe(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	p, over := &v1.Pod{}, &v1.Pod{}
	p.Name, p.Namespace = "p", "ns"
	p.Spec.InitContainers = []v1.Container{{Name: "init"}, {Name: "side", RestartPolicy: &always}}
	p.Spec.Containers = []v1.Container{{Name: "main"}}
	over.Name, over.Status.Phase = "over", v1.PodSucceeded
	socket := filepath.Join(t.TempDir(), "dir", "kubelet.sock")
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(socket, nil, 0o600); err != nil { // what a kubelet before left
		t.Fatal(err)
	}
	s := New(Config{Socket: socket, Pods: func() []*v1.Pod { return []*v1.Pod{p, over} }, Sources: []Source{source{}}})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	run, stop := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- s.Run(run) }()
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := api.NewPodResourcesListerClient(conn)
	list, err := client.List(ctx, &api.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	if err != nil || len(list.PodResources) != 1 || len(list.PodResources[0].Containers) != 2 {
		t.Fatalf("%v %v", list, err)
	}
	if c := list.PodResources[0].Containers; c[0].Name != "side" || len(c[0].CpuIds) != 0 || fmt.Sprint(c[1].CpuIds) != "[2 3]" {
		t.Errorf("%v", c)
	}
	got, err := client.Get(ctx, &api.GetPodResourcesRequest{PodName: "p", PodNamespace: "ns"})
	if err != nil || got.PodResources.Name != "p" {
		t.Errorf("%v %v", got, err)
	}
	if _, err := client.Get(ctx, &api.GetPodResourcesRequest{PodName: "none"}); status.Code(err) != codes.NotFound {
		t.Error(err)
	}
	if all, err := client.GetAllocatableResources(ctx, &api.AllocatableResourcesRequest{}); err != nil || fmt.Sprint(all.CpuIds) != "[1 2 3]" {
		t.Errorf("%v %v", all, err)
	}
	old, err := alpha.NewPodResourcesListerClient(conn).List(ctx, &alpha.ListPodResourcesRequest{})
	if err != nil || len(old.PodResources) != 1 || fmt.Sprint(old.PodResources[0].Containers[1].Devices[0].DeviceIds) != "[d]" {
		t.Errorf("%v %v", old, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLimit(t *testing.T) {
	answer := func(context.Context, any) (any, error) { return "answer", nil }
	ask := limited(rate.NewLimiter(0, 2))
	var got []string
	for range 3 {
		reply, err := ask(t.Context(), nil, nil, answer)
		got = append(got, fmt.Sprint(reply, status.Code(err)))
	}
	if s := fmt.Sprint(got); s != "[answerOK answerOK <nil> ResourceExhausted]" {
		t.Error(s)
	}
}
