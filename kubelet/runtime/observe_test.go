package runtime

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// held is a runtime with at most one sandbox and its containers. It counts the statuses that it is asked for.
type held struct {
	cri.RuntimeServiceClient
	box        *cri.PodSandboxStatus
	containers []*cri.ContainerStatus
	asked      int
}

func (h *held) ListPodSandbox(context.Context, *cri.ListPodSandboxRequest, ...grpc.CallOption) (*cri.ListPodSandboxResponse, error) {
	resp := &cri.ListPodSandboxResponse{}
	if h.box != nil {
		resp.Items = append(resp.Items, &cri.PodSandbox{Id: h.box.Id, State: h.box.State})
	}
	return resp, nil
}

func (h *held) ListContainers(context.Context, *cri.ListContainersRequest, ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	resp := &cri.ListContainersResponse{}
	for _, c := range h.containers {
		resp.Containers = append(resp.Containers, &cri.Container{Id: c.Id, PodSandboxId: h.box.Id, State: c.State})
	}
	return resp, nil
}

func (h *held) PodSandboxStatus(context.Context, *cri.PodSandboxStatusRequest, ...grpc.CallOption) (*cri.PodSandboxStatusResponse, error) {
	h.asked++
	return &cri.PodSandboxStatusResponse{Status: h.box}, nil
}

func (h *held) ContainerStatus(_ context.Context, r *cri.ContainerStatusRequest, _ ...grpc.CallOption) (*cri.ContainerStatusResponse, error) {
	h.asked++
	for _, c := range h.containers {
		if c.Id == r.ContainerId {
			return &cri.ContainerStatusResponse{Status: c}, nil
		}
	}
	return nil, status.Error(codes.NotFound, r.ContainerId)
}

// TestObserveAsksOnce: the status of a sandbox that is ready, and of a container that runs or has exited, is asked for once.
func TestObserveAsksOnce(t *testing.T) {
	h := &held{box: &cri.PodSandboxStatus{Id: "s", State: cri.PodSandboxState_SANDBOX_READY}}
	r := &Runtime{runtime: h, known: map[types.UID]settled{}, cfg: Config{Timeout: 1e9}}
	observe := func(asks int) ([]pod.Sandbox, []pod.Container) {
		t.Helper()
		h.asked = 0
		boxes, containers, err := r.Observe(t.Context(), "u")
		if err != nil || h.asked != asks {
			t.Fatalf("asked for %d statuses, want %d; %v", h.asked, asks, err)
		}
		return boxes, containers
	}
	observe(1) // no address yet
	h.box.Network = &cri.PodSandboxNetworkStatus{Ip: "10.0.0.1"}
	if boxes, _ := observe(1); boxes[0].IPs[0] != "10.0.0.1" {
		t.Errorf("sandbox %+v", boxes[0])
	}
	c := &cri.ContainerStatus{Id: "c", Labels: map[string]string{spec.LabelContainer: "app"}, State: cri.ContainerState_CONTAINER_CREATED}
	h.containers = []*cri.ContainerStatus{c}
	observe(1)
	observe(1) // a container that has only been created may be another one the next moment
	c.State, c.StartedAt = cri.ContainerState_CONTAINER_RUNNING, 7
	observe(1)
	if boxes, containers := observe(0); containers[0].State != pod.Running || containers[0].StartedAt.UnixNano() != 7 || boxes[0].IPs[0] != "10.0.0.1" {
		t.Errorf("%+v, %+v", boxes, containers)
	}
	c.State, c.ExitCode = cri.ContainerState_CONTAINER_EXITED, 3
	observe(1)
	if _, containers := observe(0); containers[0].State != pod.Exited || containers[0].ExitCode != 3 {
		t.Errorf("%+v", containers)
	}
	h.box.State = cri.PodSandboxState_SANDBOX_NOTREADY
	if boxes, _ := observe(1); boxes[0].Ready {
		t.Error("the sandbox counts as ready")
	}
	h.box, h.containers = nil, nil
	if observe(0); len(r.known) != 0 {
		t.Errorf("not forgotten: %+v", r.known)
	}
}
