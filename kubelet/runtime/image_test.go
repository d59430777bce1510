package runtime

import (
	"context"
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"google.golang.org/grpc"

	"github.com/skiff-node/skiff/kubelet/images/pulls"
	"github.com/skiff-node/skiff/kubelet/metrics"
)

// store is an image service that has the image once it was pulled.
type store struct {
	cri.ImageServiceClient
	there   bool
	pull    func() error // what a pull answers; the image is there then anyhow
	unknown error        // what is answered about images that are there
}

func (s *store) PullImage(context.Context, *cri.PullImageRequest, ...grpc.CallOption) (*cri.PullImageResponse, error) {
	s.there = true
	return &cri.PullImageResponse{ImageRef: "r.example.com/x@sha256:1"}, s.pull()
}

func (s *store) ImageStatus(context.Context, *cri.ImageStatusRequest, ...grpc.CallOption) (*cri.ImageStatusResponse, error) {
	if !s.there {
		return &cri.ImageStatusResponse{}, nil
	}
	return &cri.ImageStatusResponse{Image: &cri.Image{Id: "id"}}, s.unknown
}

func (s *store) ListImages(context.Context, *cri.ListImagesRequest, ...grpc.CallOption) (*cri.ListImagesResponse, error) {
	return &cri.ListImagesResponse{}, nil
}

type noEvents struct{}

func (noEvents) Normal(*v1.Pod, string, string, string, ...any)  {}
func (noEvents) Warning(*v1.Pod, string, string, string, ...any) {}

// TestPullWithoutAnswer: an image that is there although its pull did not end well is for nobody without a pull of his own, also
// when such a pull fails then.
func TestPullWithoutAnswer(t *testing.T) {
	for name, prepare := range map[string]func(s *store, stop context.CancelFunc){
		"the pod went, or the kubelet": func(s *store, stop context.CancelFunc) {
			s.pull = func() error { stop(); return context.Canceled }
		},
		"the image's ID is not known": func(s *store, _ context.CancelFunc) {
			s.pull, s.unknown = func() error { return nil }, errors.New("away")
		},
	} {
		policy, err := pulls.NewPolicy(kubeletconfig.NeverVerifyPreloadedImages, nil)
		if err != nil {
			t.Fatal(err)
		}
		records, err := pulls.New(pulls.Config{Dir: t.TempDir(), Policy: policy})
		if err != nil {
			t.Fatal(err)
		}
		s := &store{}
		r := &Runtime{images: s, pulls: make(chan struct{}, 1), cfg: Config{Events: noEvents{}, Pulls: records, Metrics: metrics.NewKubelet().Runtime, Timeout: time.Minute}}
		ensure := func(ctx context.Context) error {
			_, err := puller{r, &v1.Pod{}, &v1.Container{Name: "c"}, nil, "r.example.com/x:1", v1.PullIfNotPresent}.ensure(ctx)
			return err
		}
		ctx, stop := context.WithCancel(t.Context())
		prepare(s, stop)
		if err := ensure(ctx); err == nil {
			t.Errorf("%s: the first pull succeeds", name)
		}
		s.pull, s.unknown = func() error { return errors.New("denied") }, nil
		for range 2 {
			if err := ensure(t.Context()); err == nil {
				t.Errorf("%s: a pod that cannot pull the image has it", name)
			}
		}
		s.pull = func() error { return nil }
		if err := ensure(t.Context()); err != nil {
			t.Errorf("%s: a pod that can pull the image: %v", name, err)
		}
		stop()
	}
}
