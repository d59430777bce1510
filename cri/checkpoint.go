package cri

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/convert"
	"github.com/skiff-node/skiff/runtimeservice"
)

// checkpointHandlers serves checkpoints of containers (KEP-2008) and of pods.
type checkpointHandlers struct {
	checkpoints runtimeservice.Checkpoints
}

// able refuses options, of which there are none yet, and everything where the runtime has no checkpoints.
func (h checkpointHandlers) able(options map[string]string) error {
	if h.checkpoints == nil {
		return fmt.Errorf("checkpoints: %w", runtimeservice.ErrUnsupported)
	}
	if len(options) > 0 {
		return fmt.Errorf("%w: options: there are none, not %q", runtimeservice.ErrInvalid, slices.Sorted(maps.Keys(options)))
	}
	return nil
}

func (h checkpointHandlers) CheckpointContainer(ctx context.Context, r *runtimeapi.CheckpointContainerRequest) (*runtimeapi.CheckpointContainerResponse, error) {
	if err := h.able(nil); err != nil {
		return nil, err
	}
	if r.GetTimeout() < 0 {
		return nil, fmt.Errorf("%w: timeout: %d is negative", runtimeservice.ErrInvalid, r.GetTimeout())
	}
	err := h.checkpoints.CheckpointContainer(ctx, r.GetContainerId(), r.GetLocation(), time.Duration(r.GetTimeout())*time.Second)
	return &runtimeapi.CheckpointContainerResponse{}, err
}

func (h checkpointHandlers) CheckpointPod(ctx context.Context, r *runtimeapi.CheckpointPodRequest) (*runtimeapi.CheckpointPodResponse, error) {
	if err := h.able(r.GetOptions()); err != nil {
		return nil, err
	}
	if err := bounded(ctx); err != nil {
		return nil, err
	}
	err := h.checkpoints.CheckpointSandbox(ctx, runtimeservice.SandboxCheckpoint{
		SandboxID: r.GetPodSandboxId(), Path: r.GetOutputPath(), ContainerIDs: r.GetContainerIds(),
	})
	return &runtimeapi.CheckpointPodResponse{}, err
}

func (h checkpointHandlers) RestorePod(ctx context.Context, r *runtimeapi.RestorePodRequest) (*runtimeapi.RestorePodResponse, error) {
	if err := h.able(r.GetOptions()); err != nil {
		return nil, err
	}
	if err := bounded(ctx); err != nil {
		return nil, err
	}
	config, err := convert.SandboxConfig(r.GetConfig(), r.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	request := runtimeservice.SandboxRestore{Path: r.GetCheckpointPath(), Config: config}
	for i, c := range r.GetContainerConfigs() {
		unit, err := convert.ContainerConfig(c)
		if err != nil {
			return nil, fmt.Errorf("container_configs[%d]: %w", i, err)
		}
		request.Containers = append(request.Containers, unit)
	}
	made, err := h.checkpoints.RestoreSandbox(ctx, request)
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.RestorePodResponse{PodSandboxId: made.SandboxID}
	for _, name := range slices.Sorted(maps.Keys(made.Containers)) {
		out.RestoredContainers = append(out.RestoredContainers, &runtimeapi.RestoredContainer{Name: name, ContainerId: made.Containers[name]})
	}
	return out, nil
}

// bounded: a pod may not be frozen, nor a caller waiting, for ever.
func bounded(ctx context.Context) error {
	if _, ok := ctx.Deadline(); !ok {
		return fmt.Errorf("%w: the call needs a deadline", runtimeservice.ErrInvalid)
	}
	return nil
}
