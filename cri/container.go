package cri

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/convert"
	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// containerHandlers serves containers.
type containerHandlers struct {
	containers runtimeservice.Containers
	inspector  runtimeservice.Inspector
	statuses
}

// statuses tells how containers are, and how their images are called.
type statuses struct {
	images interface {
		Get(ctx context.Context, ref string) (imageservice.Image, error)
	}
}

func (s statuses) of(ctx context.Context, containers ...runtimeservice.Container) ([]*runtimeapi.ContainerStatus, error) {
	var out []*runtimeapi.ContainerStatus
	for _, c := range containers {
		var known *imageservice.Image
		switch image, err := s.images.Get(ctx, c.ImageID); {
		case err == nil:
			known = &image
		case !errors.Is(err, imageservice.ErrNotFound):
			return nil, fmt.Errorf("look for the image of container %s: %w", c.ID, err)
		}
		out = append(out, convert.ContainerStatus(c, known))
	}
	return out, nil
}

// CreateContainer takes what concerns the sandbox from the sandbox's own record, not from the copy in the request.
func (h containerHandlers) CreateContainer(ctx context.Context, r *runtimeapi.CreateContainerRequest) (*runtimeapi.CreateContainerResponse, error) {
	config, err := convert.ContainerConfig(r.GetConfig())
	if err != nil {
		return nil, err
	}
	id, err := h.containers.CreateContainer(ctx, r.GetPodSandboxId(), config)
	return &runtimeapi.CreateContainerResponse{ContainerId: id}, err
}

func (h containerHandlers) StartContainer(ctx context.Context, r *runtimeapi.StartContainerRequest) (*runtimeapi.StartContainerResponse, error) {
	return &runtimeapi.StartContainerResponse{}, h.containers.StartContainer(ctx, r.GetContainerId())
}

func (h containerHandlers) StopContainer(ctx context.Context, r *runtimeapi.StopContainerRequest) (*runtimeapi.StopContainerResponse, error) {
	timeout := time.Duration(max(r.GetTimeout(), 0)) * time.Second
	return &runtimeapi.StopContainerResponse{}, h.containers.StopContainer(ctx, r.GetContainerId(), timeout)
}

func (h containerHandlers) RemoveContainer(ctx context.Context, r *runtimeapi.RemoveContainerRequest) (*runtimeapi.RemoveContainerResponse, error) {
	return &runtimeapi.RemoveContainerResponse{}, h.containers.RemoveContainer(ctx, r.GetContainerId())
}

func (h containerHandlers) ContainerStatus(ctx context.Context, r *runtimeapi.ContainerStatusRequest) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := h.containers.Container(ctx, r.GetContainerId())
	if err != nil {
		return nil, err
	}
	all, err := h.of(ctx, c)
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.ContainerStatusResponse{Status: all[0]}
	if r.GetVerbose() {
		out.Info, err = verboseContainer(ctx, h.inspector, c)
	}
	return out, err
}

func (h containerHandlers) list(ctx context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	containers, err := h.containers.ListContainers(ctx, convert.ContainerFilter(f))
	return convertAll(containers, convert.Container), err
}

func (h containerHandlers) ListContainers(ctx context.Context, r *runtimeapi.ListContainersRequest) (*runtimeapi.ListContainersResponse, error) {
	items, err := h.list(ctx, r.GetFilter())
	return &runtimeapi.ListContainersResponse{Containers: items}, err
}

func (h containerHandlers) StreamContainers(r *runtimeapi.StreamContainersRequest, s grpc.ServerStreamingServer[runtimeapi.StreamContainersResponse]) error {
	items, err := h.list(s.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return batches(items, func(b []*runtimeapi.Container) error {
		return s.Send(&runtimeapi.StreamContainersResponse{Containers: b})
	})
}

func (h containerHandlers) UpdateContainerResources(ctx context.Context, r *runtimeapi.UpdateContainerResourcesRequest) (*runtimeapi.UpdateContainerResourcesResponse, error) {
	return &runtimeapi.UpdateContainerResourcesResponse{},
		h.containers.UpdateContainer(ctx, r.GetContainerId(), convert.Resources(r.GetLinux()))
}

func (h containerHandlers) ReopenContainerLog(ctx context.Context, r *runtimeapi.ReopenContainerLogRequest) (*runtimeapi.ReopenContainerLogResponse, error) {
	return &runtimeapi.ReopenContainerLogResponse{}, h.containers.ReopenLog(ctx, r.GetContainerId())
}
