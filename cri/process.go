package cri

import (
	"context"
	"fmt"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/stream"
	"github.com/skiff-node/skiff/runtimeservice"
)

// processHandlers serves exec, attach and port-forward.
type processHandlers struct {
	runtime runtimeservice.Service
	streams *stream.Server
}

func (h processHandlers) ExecSync(ctx context.Context, r *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if len(r.GetCmd()) == 0 {
		return nil, fmt.Errorf("%w: cmd: is empty", runtimeservice.ErrInvalid)
	}
	timeout := time.Duration(max(r.GetTimeout(), 0)) * time.Second
	result, err := h.runtime.Processes.ExecSync(ctx, r.GetContainerId(), r.GetCmd(), timeout)
	return &runtimeapi.ExecSyncResponse{
		Stdout: result.Stdout, Stderr: result.Stderr, ExitCode: int32(result.ExitCode),
	}, err
}

// running resolves the id of a container, and refuses one that does not run.
func (h processHandlers) running(ctx context.Context, id string) (string, error) {
	c, err := h.runtime.Containers.Container(ctx, id)
	if err != nil {
		return "", err
	}
	if c.State != runtimeservice.ContainerRunning {
		return "", fmt.Errorf("container %s is %s: %w", c.ID, c.State, runtimeservice.ErrState)
	}
	return c.ID, nil
}

func (h processHandlers) Exec(ctx context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	id, err := h.running(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	r.ContainerId = id
	return h.streams.Exec(r)
}

func (h processHandlers) Attach(ctx context.Context, r *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	id, err := h.running(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	r.ContainerId = id
	return h.streams.Attach(r)
}

func (h processHandlers) PortForward(ctx context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	s, err := h.runtime.Sandboxes.Sandbox(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if s.State != runtimeservice.SandboxReady {
		return nil, fmt.Errorf("sandbox %s is %s: %w", s.ID, s.State, runtimeservice.ErrState)
	}
	r.PodSandboxId = s.ID
	return h.streams.PortForward(r)
}
