package cri

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/podmetrics"
	"github.com/skiff-node/skiff/runtimeservice"
)

// metricsHandlers serves the pods' metrics (KEP-2371). Nothing is measured between two requests.
type metricsHandlers struct {
	meters runtimeservice.Meters
}

func (h metricsHandlers) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: podmetrics.Descriptors()}, nil
}

func (h metricsHandlers) pods(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	details, err := h.meters.ListDetails(ctx)
	return convertAll(details, podmetrics.Pod), err
}

func (h metricsHandlers) ListPodSandboxMetrics(ctx context.Context, _ *runtimeapi.ListPodSandboxMetricsRequest) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	pods, err := h.pods(ctx)
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: pods}, err
}

// metricsBatch bounds a message of the stream: a pod's metrics are some tens of KiB.
const metricsBatch = 100

func (h metricsHandlers) StreamPodSandboxMetrics(_ *runtimeapi.StreamPodSandboxMetricsRequest, s grpc.ServerStreamingServer[runtimeapi.StreamPodSandboxMetricsResponse]) error {
	pods, err := h.pods(s.Context())
	if err != nil {
		return err
	}
	for b := range slices.Chunk(pods, metricsBatch) {
		if err := s.Send(&runtimeapi.StreamPodSandboxMetricsResponse{PodSandboxMetrics: b}); err != nil {
			return err
		}
	}
	return nil
}
