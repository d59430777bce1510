package cri

import (
	"context"
	"errors"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// node has two handlers.
type node struct{}

func (node) Status(context.Context) runtimeservice.Status {
	return runtimeservice.Status{Handlers: []runtimeservice.Handler{{Name: "runc"}, {Name: "crun"}}}
}

// images has one image in its registry.
type images struct{ imageservice.Images }

const present, imageID = "r.test/x:1", "sha256:abcd"

func (images) Pull(_ context.Context, r imageservice.PullRequest) (imageservice.Image, error) {
	if r.Reference != present {
		return imageservice.Image{}, imageservice.ErrNotFound
	}
	return imageservice.Image{ID: imageID}, nil
}

func (images) Get(context.Context, string) (imageservice.Image, error) {
	return imageservice.Image{}, imageservice.ErrNotFound
}

func TestPullForHandler(t *testing.T) {
	h := imageHandlers{images{}, node{}}
	for handler, ok := range map[string]bool{"": true, "crun": true, "kata": false} {
		got, err := h.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: present, RuntimeHandler: handler}})
		if ok && (err != nil || got.ImageRef != imageID) || !ok && !errors.Is(err, runtimeservice.ErrInvalid) {
			t.Errorf("%q: %v, %v", handler, got, err)
		}
	}
	if got, err := h.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: "r.test/absent:1"}}); err != nil || got.Image != nil {
		t.Errorf("an absent image: %v, %v", got, err)
	}
	if _, err := h.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "r.test/absent:1"}}); !errors.Is(err, imageservice.ErrNotFound) {
		t.Errorf("pull of what is absent: %v", err)
	}
}
