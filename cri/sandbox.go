package cri

import (
	"context"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/convert"
	"github.com/skiff-node/skiff/runtimeservice"
)

// sandboxHandlers serves pod sandboxes.
type sandboxHandlers struct {
	sandboxes  runtimeservice.Sandboxes
	containers runtimeservice.Containers
	statuses
}

func (h sandboxHandlers) RunPodSandbox(ctx context.Context, r *runtimeapi.RunPodSandboxRequest) (*runtimeapi.RunPodSandboxResponse, error) {
	config, err := convert.SandboxConfig(r.GetConfig(), r.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	id, err := h.sandboxes.RunSandbox(ctx, config)
	return &runtimeapi.RunPodSandboxResponse{PodSandboxId: id}, err
}

func (h sandboxHandlers) StopPodSandbox(ctx context.Context, r *runtimeapi.StopPodSandboxRequest) (*runtimeapi.StopPodSandboxResponse, error) {
	return &runtimeapi.StopPodSandboxResponse{}, h.sandboxes.StopSandbox(ctx, r.GetPodSandboxId())
}

func (h sandboxHandlers) RemovePodSandbox(ctx context.Context, r *runtimeapi.RemovePodSandboxRequest) (*runtimeapi.RemovePodSandboxResponse, error) {
	return &runtimeapi.RemovePodSandboxResponse{}, h.sandboxes.RemoveSandbox(ctx, r.GetPodSandboxId())
}

// PodSandboxStatus carries the statuses of the containers too (KEP-3386), and with verbose the record.
func (h sandboxHandlers) PodSandboxStatus(ctx context.Context, r *runtimeapi.PodSandboxStatusRequest) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := h.sandboxes.Sandbox(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	containers, err := h.containers.ListContainers(ctx, runtimeservice.Filter{SandboxID: s.ID})
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.PodSandboxStatusResponse{Status: convert.PodSandboxStatus(s), Timestamp: time.Now().UnixNano()}
	if out.ContainersStatuses, err = h.of(ctx, containers...); err == nil && r.GetVerbose() {
		out.Info, err = verboseSandbox(s)
	}
	return out, err
}

func (h sandboxHandlers) list(ctx context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	sandboxes, err := h.sandboxes.ListSandboxes(ctx, convert.SandboxFilter(f))
	return convertAll(sandboxes, convert.PodSandbox), err
}

func (h sandboxHandlers) ListPodSandbox(ctx context.Context, r *runtimeapi.ListPodSandboxRequest) (*runtimeapi.ListPodSandboxResponse, error) {
	items, err := h.list(ctx, r.GetFilter())
	return &runtimeapi.ListPodSandboxResponse{Items: items}, err
}

func (h sandboxHandlers) StreamPodSandboxes(r *runtimeapi.StreamPodSandboxesRequest, s grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxesResponse]) error {
	items, err := h.list(s.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return batches(items, func(b []*runtimeapi.PodSandbox) error {
		return s.Send(&runtimeapi.StreamPodSandboxesResponse{PodSandboxes: b})
	})
}

func (h sandboxHandlers) UpdatePodSandboxResources(ctx context.Context, r *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	err := h.sandboxes.UpdateSandbox(ctx, r.GetPodSandboxId(),
		convert.OptionalResources(r.GetOverhead()), convert.OptionalResources(r.GetResources()))
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, err
}

// convertAll converts each item of a list.
func convertAll[A, B any](in []A, f func(A) B) []B {
	out := make([]B, 0, len(in))
	for _, a := range in {
		out = append(out, f(a))
	}
	return out
}

// batchSize bounds a message of a stream list (KEP-5825): well below the client's 16 MiB at a few KiB an item.
const batchSize = 1000

// batches sends the items in pieces. An empty list sends nothing but the end.
func batches[T any](items []T, send func([]T) error) error {
	for len(items) > 0 {
		n := min(batchSize, len(items))
		if err := send(items[:n]); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}
