package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

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

// MemoryUsage is how much memory a running container uses, in bytes.
func (r resizer) MemoryUsage(ctx context.Context, id string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, r.timeout)
	defer cancel()
	resp, err := r.runtime.ContainerStats(ctx, &cri.ContainerStatsRequest{ContainerId: id})
	if err != nil {
		return 0, err
	}
	m := resp.GetStats().GetMemory()
	if u := m.GetUsageBytes(); u != nil {
		return int64(u.Value), nil
	}
	if u := m.GetWorkingSetBytes(); u != nil {
		return int64(u.Value), nil
	}
	return 0, errors.New("the runtime does not tell")
}
