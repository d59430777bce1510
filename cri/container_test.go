package cri

import (
	"context"
	"errors"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// known are images by id.
type known map[string]imageservice.Image

func (k known) Get(_ context.Context, ref string) (imageservice.Image, error) {
	image, ok := k[ref]
	switch {
	case ref == "sha256:bad":
		return image, errors.New("disk error")
	case !ok:
		return image, imageservice.ErrNotFound
	}
	return image, nil
}

// one is a runtime with one container.
type one struct {
	runtimeservice.Containers
	c runtimeservice.Container
}

func (o one) Container(context.Context, string) (runtimeservice.Container, error) { return o.c, nil }

func (o one) ListContainers(context.Context, runtimeservice.Filter) ([]runtimeservice.Container, error) {
	return []runtimeservice.Container{o.c}, nil
}

// TestImageOfContainer holds what is told of a container's image to what containerd tells, which kubelets show to users.
func TestImageOfContainer(t *testing.T) {
	images := known{
		"sha256:two":  {ID: "sha256:two", RepoTags: []string{"r.test/x:1", "r.test/x:2"}, RepoDigests: []string{"r.test/x@sha256:d"}},
		"sha256:tag":  {ID: "sha256:tag", RepoTags: []string{"r.test/x:1"}},
		"sha256:none": {ID: "sha256:none", RepoDigests: []string{"r.test/x@sha256:d"}},
	}
	for _, tc := range []struct{ id, image, user, ref string }{
		{"sha256:two", "r.test/x:1", "", "r.test/x@sha256:d"},
		{"sha256:tag", "r.test/x:1", "", "sha256:tag"},
		{"sha256:none", "sha256:none", "x:3", "r.test/x@sha256:d"},
		{"sha256:gone", "sha256:gone", "x:3", "sha256:gone"},
	} {
		c := runtimeservice.Container{ID: "c", ImageID: tc.id}
		c.Config.Image = runtimeservice.Image{Ref: tc.id, UserSpecified: "x:3"}
		h := containerHandlers{containers: one{c: c}, statuses: statuses{images}}
		got, err := h.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "c"})
		if err != nil {
			t.Fatal(err)
		}
		st := got.Status
		if st.Image.Image != tc.image || st.Image.UserSpecifiedImage != tc.user || st.ImageRef != tc.ref || st.ImageId != tc.id {
			t.Errorf("status of a container of %s: %v, image_ref %s, image_id %s", tc.id, st.Image, st.ImageRef, st.ImageId)
		}
		list, err := h.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
		if err != nil || len(list.Containers) != 1 {
			t.Fatal(list, err)
		}
		if l := list.Containers[0]; l.Image.Image != tc.id || l.Image.UserSpecifiedImage != "x:3" || l.ImageRef != tc.id || l.ImageId != tc.id {
			t.Errorf("container of %s in a list: %v", tc.id, l)
		}
	}
	h := containerHandlers{containers: one{c: runtimeservice.Container{ImageID: "sha256:bad"}}, statuses: statuses{images}}
	if _, err := h.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "c"}); err == nil || !strings.Contains(err.Error(), "disk error") {
		t.Errorf("images that cannot be read: %v", err)
	}
}
