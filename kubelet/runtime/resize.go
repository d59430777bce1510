package runtime

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// resizer changes the resources of running containers.
type resizer struct {
	runtime cri.RuntimeServiceClient
	node    *spec.Node
	timeout time.Duration
}

// UpdateContainer gives a running container the resources that the spec has for it now.
func (r resizer) UpdateContainer(ctx context.Context, p *v1.Pod, name, id string) error {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	_, err := r.runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: id,
		Linux: spec.Resources(r.node, p, pod.Find(p, name))})
	if err != nil {
		return fmt.Errorf("update resources of container %q: %s", name, message(err))
	}
	return nil
}

// UpdateSandbox tells the runtime of the resources that the pod shall have instead of those it had (KEP-4113). The pod's cgroup is
// the kubelet's to write; runtimes and their plugins may refuse. A runtime that does not know the call does not mind.
func (r resizer) UpdateSandbox(ctx context.Context, had, shall *v1.Pod, id string) error {
	overhead, resources := spec.SandboxResources(r.node, shall)
	if _, before := spec.SandboxResources(r.node, had); proto.Equal(before, resources) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	_, err := r.runtime.UpdatePodSandboxResources(ctx, &cri.UpdatePodSandboxResourcesRequest{PodSandboxId: id, Overhead: overhead, Resources: resources})
	if err == nil || status.Code(err) == codes.Unimplemented ||
		(status.Code(err) == codes.Unknown && strings.Contains(message(err), "not implemented")) { // containerd 2.2
		return nil
	}
	return fmt.Errorf("failed to notify runtime for UpdatePodSandboxResources; resize rejected: %s", message(err))
}

// PodMemoryUsage is how much memory the pod uses, in bytes.
func (r resizer) PodMemoryUsage(ctx context.Context, sandbox string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	resp, err := r.runtime.PodSandboxStats(ctx, &cri.PodSandboxStatsRequest{PodSandboxId: sandbox})
	if err != nil {
		return 0, err
	}
	return used(resp.GetStats().GetLinux().GetMemory())
}

// MemoryUsage is how much memory a running container uses, in bytes.
func (r resizer) MemoryUsage(ctx context.Context, id string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	resp, err := r.runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		return 0, err
	}
	return used(resp.GetStats().GetMemory())
}

func used(m *cri.MemoryUsage) (int64, error) {
	if u := m.GetUsageBytes(); u != nil {
		return int64(u.Value), nil
	}
	if u := m.GetWorkingSetBytes(); u != nil {
		return int64(u.Value), nil
	}
	return 0, errors.New("the runtime does not tell")
}
