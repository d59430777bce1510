package cpus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/cpuset"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Runtime is the part of CRI that is needed to move containers.
type Runtime interface {
	ListContainers(ctx context.Context, in *cri.ListContainersRequest, opts ...grpc.CallOption) (*cri.ListContainersResponse, error)
	UpdateContainerResources(ctx context.Context, in *cri.UpdateContainerResourcesRequest, opts ...grpc.CallOption) (*cri.UpdateContainerResourcesResponse, error)
}

// Labels by which the runtime knows whose container it is.
const (
	labelUID       = "io.kubernetes.pod.uid"
	labelContainer = "io.kubernetes.container.name"
)

// Run keeps running containers on their processors until ctx ends: it looks each period, and when some were given away.
func (a *Allocator) Run(ctx context.Context, runtime Runtime, period time.Duration, log *slog.Logger) error {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	done := map[string]cpuset.CPUSet{} // the set last given to a container, by ID
	for {
		if err := a.place(ctx, runtime, done); err != nil && ctx.Err() == nil {
			log.Warn("cannot keep containers on their CPUs, will be tried again", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-ticker.C:
		}
	}
}

// place moves the containers whose set has changed.
func (a *Allocator) place(ctx context.Context, runtime Runtime, done map[string]cpuset.CPUSet) error {
	running := &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}}
	list, err := runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: running})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	seen := map[string]bool{}
	var errs []error
	for _, c := range list.Containers {
		seen[c.Id] = true
		if c.Labels[labelUID] == "" {
			continue
		}
		set, _, err := a.Of(types.UID(c.Labels[labelUID]), c.Labels[labelContainer])
		if err != nil {
			return err
		}
		if has, ok := done[c.Id]; ok && has.Equals(set) {
			continue
		}
		_, err = runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{ContainerId: c.Id,
			Linux: &cri.LinuxContainerResources{CpusetCpus: set.String()}})
		if err != nil && status.Code(err) != codes.NotFound {
			errs = append(errs, fmt.Errorf("move container %s to CPUs %s: %w", c.Id, set, err))
			continue
		}
		done[c.Id] = set
	}
	for id := range done {
		if !seen[id] {
			delete(done, id)
		}
	}
	return errors.Join(errs...)
}
