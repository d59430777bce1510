package runtime

import (
	"context"
	"testing"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"

	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
)

// shelf is an image service that has some images and can pull others.
type shelf struct {
	cri.ImageServiceClient
	here, far map[string]string // IDs by name
}

func (s *shelf) ImageStatus(_ context.Context, in *cri.ImageStatusRequest, _ ...grpc.CallOption) (*cri.ImageStatusResponse, error) {
	for name, id := range s.here {
		if in.Image.Image == name || in.Image.Image == id {
			return &cri.ImageStatusResponse{Image: &cri.Image{Id: id}}, nil
		}
	}
	return &cri.ImageStatusResponse{}, nil
}

func (s *shelf) PullImage(_ context.Context, in *cri.PullImageRequest, _ ...grpc.CallOption) (*cri.PullImageResponse, error) {
	id, ok := s.far[in.Image.Image]
	if !ok {
		return nil, context.DeadlineExceeded
	}
	s.here[in.Image.Image] = id
	return &cri.PullImageResponse{ImageRef: id}, nil
}

type silent struct{}

func (silent) Normal(*v1.Pod, string, string, string, ...any)  {}
func (silent) Warning(*v1.Pod, string, string, string, ...any) {}

func TestImageVolumes(t *testing.T) {
	p := &v1.Pod{}
	for name, ref := range map[string]string{"present": "data:1", "pulled": "data:2", "unused": "nowhere:1"} {
		p.Spec.Volumes = append(p.Spec.Volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: ref}}})
	}
	c := &v1.Container{Name: "c", VolumeMounts: []v1.VolumeMount{{Name: "present", MountPath: "/a"}, {Name: "pulled", MountPath: "/b", SubPath: "dir"}}}
	images := &shelf{here: map[string]string{"data:1": "sha256:1"}, far: map[string]string{"data:2": "sha256:2"}}
	r := launch{&Runtime{cfg: Config{Events: silent{}, Node: &spec.Node{}, Metrics: metrics.NewKubelet().Runtime}, images: images, pulls: make(chan struct{}, 1)},
		&Request{Pod: p, Start: pod.ContainerStart{Name: "c", Spec: c}}}
	got, err := r.imageVolumes(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := r.mounts(context.Background(), nil, got)
	if err != nil || len(mounts) != 2 {
		t.Fatalf("%v, %v", mounts, err)
	}
	for i, want := range []*cri.Mount{
		{ContainerPath: "/a", Readonly: true, Image: &cri.ImageSpec{Image: "sha256:1", UserSpecifiedImage: "data:1"}},
		{ContainerPath: "/b", Readonly: true, Image: &cri.ImageSpec{Image: "sha256:2", UserSpecifiedImage: "data:2"}, ImageSubPath: "dir"},
	} {
		if mounts[i].String() != want.String() {
			t.Errorf("got %v, want %v", mounts[i], want)
		}
	}
	c.VolumeMounts[0].Name = "unused"
	if _, err := r.imageVolumes(context.Background(), nil); err == nil || err.(*Fault).Reason != ErrImagePull {
		t.Errorf("an image that cannot be pulled: %v", err)
	}
}
