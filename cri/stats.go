package cri

import (
	"context"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/convert"
	"github.com/skiff-node/skiff/runtimeservice"
)

// statsHandlers serves what is measured.
type statsHandlers struct {
	meters runtimeservice.Meters
}

func (h statsHandlers) ContainerStats(ctx context.Context, r *runtimeapi.ContainerStatsRequest) (*runtimeapi.ContainerStatsResponse, error) {
	s, err := h.meters.ContainerStats(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatsResponse{Stats: convert.ContainerStats(s)}, nil
}

func (h statsHandlers) containers(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	stats, err := h.meters.ListContainerStats(ctx, convert.StatsFilter(f))
	return convertAll(stats, convert.ContainerStats), err
}

func (h statsHandlers) ListContainerStats(ctx context.Context, r *runtimeapi.ListContainerStatsRequest) (*runtimeapi.ListContainerStatsResponse, error) {
	stats, err := h.containers(ctx, r.GetFilter())
	return &runtimeapi.ListContainerStatsResponse{Stats: stats}, err
}

func (h statsHandlers) StreamContainerStats(r *runtimeapi.StreamContainerStatsRequest, s grpc.ServerStreamingServer[runtimeapi.StreamContainerStatsResponse]) error {
	stats, err := h.containers(s.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return batches(stats, func(b []*runtimeapi.ContainerStats) error {
		return s.Send(&runtimeapi.StreamContainerStatsResponse{ContainerStats: b})
	})
}

func (h statsHandlers) PodSandboxStats(ctx context.Context, r *runtimeapi.PodSandboxStatsRequest) (*runtimeapi.PodSandboxStatsResponse, error) {
	s, err := h.meters.SandboxStats(ctx, r.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PodSandboxStatsResponse{Stats: convert.SandboxStats(s)}, nil
}

func (h statsHandlers) sandboxes(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	stats, err := h.meters.ListSandboxStats(ctx, convert.SandboxStatsFilter(f))
	return convertAll(stats, convert.SandboxStats), err
}

func (h statsHandlers) ListPodSandboxStats(ctx context.Context, r *runtimeapi.ListPodSandboxStatsRequest) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	stats, err := h.sandboxes(ctx, r.GetFilter())
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: stats}, err
}

func (h statsHandlers) StreamPodSandboxStats(r *runtimeapi.StreamPodSandboxStatsRequest, s grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxStatsResponse]) error {
	stats, err := h.sandboxes(s.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return batches(stats, func(b []*runtimeapi.PodSandboxStats) error {
		return s.Send(&runtimeapi.StreamPodSandboxStatsResponse{PodSandboxStats: b})
	})
}
