package cri

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/convert"
	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// imageHandlers serves the image service.
type imageHandlers struct {
	images imageservice.Images
	node   interface {
		Status(context.Context) runtimeservice.Status
	}
}

// known refuses a runtime handler that there is not. All handlers use the same images.
func (h imageHandlers) known(ctx context.Context, handler string) error {
	if handler == "" {
		return nil
	}
	for _, k := range h.node.Status(ctx).Handlers {
		if k.Name == handler {
			return nil
		}
	}
	return fmt.Errorf("%w: image.runtime_handler: there is no handler %q", runtimeservice.ErrInvalid, handler)
}

// find returns nothing, and no error, for an image that is absent.
func (h imageHandlers) find(ctx context.Context, spec *runtimeapi.ImageSpec) (*imageservice.Image, error) {
	ref := spec.GetImage()
	if ref == "" {
		ref = spec.GetImageRef()
	}
	if ref == "" {
		return nil, fmt.Errorf("%w: image.image: is empty", runtimeservice.ErrInvalid)
	}
	image, err := h.images.Get(ctx, ref)
	if errors.Is(err, imageservice.ErrNotFound) {
		return nil, nil
	}
	return &image, err
}

func (h imageHandlers) list(ctx context.Context, f *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error) {
	if f.GetImage().GetImage() != "" {
		image, err := h.find(ctx, f.GetImage())
		if err != nil || image == nil {
			return nil, err
		}
		return []*runtimeapi.Image{convert.Image(*image)}, nil
	}
	images, err := h.images.List(ctx)
	return convertAll(images, convert.Image), err
}

func (h imageHandlers) ListImages(ctx context.Context, r *runtimeapi.ListImagesRequest) (*runtimeapi.ListImagesResponse, error) {
	images, err := h.list(ctx, r.GetFilter())
	return &runtimeapi.ListImagesResponse{Images: images}, err
}

func (h imageHandlers) StreamImages(r *runtimeapi.StreamImagesRequest, s grpc.ServerStreamingServer[runtimeapi.StreamImagesResponse]) error {
	images, err := h.list(s.Context(), r.GetFilter())
	if err != nil {
		return err
	}
	return batches(images, func(b []*runtimeapi.Image) error {
		return s.Send(&runtimeapi.StreamImagesResponse{Images: b})
	})
}

func (h imageHandlers) ImageStatus(ctx context.Context, r *runtimeapi.ImageStatusRequest) (*runtimeapi.ImageStatusResponse, error) {
	image, err := h.find(ctx, r.GetImage())
	if err != nil || image == nil {
		return &runtimeapi.ImageStatusResponse{}, err
	}
	out := &runtimeapi.ImageStatusResponse{Image: convert.Image(*image)}
	if r.GetVerbose() {
		out.Info, err = info(image)
	}
	return out, err
}

// PullImage answers with the image's id, the string that container statuses carry too.
func (h imageHandlers) PullImage(ctx context.Context, r *runtimeapi.PullImageRequest) (*runtimeapi.PullImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("%w: image.image: is empty", runtimeservice.ErrInvalid)
	}
	if err := h.known(ctx, r.GetImage().GetRuntimeHandler()); err != nil {
		return nil, err
	}
	image, err := h.images.Pull(ctx, imageservice.PullRequest{Reference: ref, Auth: convert.Auth(r.GetAuth())})
	return &runtimeapi.PullImageResponse{ImageRef: image.ID}, err
}

func (h imageHandlers) RemoveImage(ctx context.Context, r *runtimeapi.RemoveImageRequest) (*runtimeapi.RemoveImageResponse, error) {
	ref := r.GetImage().GetImage()
	if ref == "" {
		return nil, fmt.Errorf("%w: image.image: is empty", runtimeservice.ErrInvalid)
	}
	return &runtimeapi.RemoveImageResponse{}, h.images.Remove(ctx, ref)
}

func (h imageHandlers) ImageFsInfo(ctx context.Context, _ *runtimeapi.ImageFsInfoRequest) (*runtimeapi.ImageFsInfoResponse, error) {
	images, containers, err := h.images.FSInfo(ctx)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ImageFsInfoResponse{
		ImageFilesystems:     []*runtimeapi.FilesystemUsage{convert.FilesystemUsage(images)},
		ContainerFilesystems: []*runtimeapi.FilesystemUsage{convert.FilesystemUsage(containers)},
	}, nil
}
