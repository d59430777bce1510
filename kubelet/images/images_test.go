package images

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPlan(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	ago := func(d time.Duration) time.Time { return now.Add(-d) }
	list := []Image{
		{ID: "used", Size: 10, InUse: true, Detected: ago(time.Hour), LastUsed: now},
		{ID: "pinned", Size: 10, Pinned: true, Detected: ago(time.Hour)},
		{ID: "new", Size: 10, Detected: ago(time.Minute)},
		{ID: "b", Size: 10, Detected: ago(time.Hour), LastUsed: ago(10 * time.Minute)},
		{ID: "a", Size: 10, Detected: ago(time.Hour), LastUsed: ago(20 * time.Minute)},
		{ID: "never", Size: 3, Detected: ago(time.Hour)},
	}
	p := Policy{High: 85, Low: 80, MinAge: 2 * time.Minute}
	for _, tc := range []struct {
		name    string
		avail   uint64
		policy  Policy
		want    string
		missing uint64
	}{
		{"below the high threshold", 16, p, "", 0},
		{"at the high threshold", 15, p, "never a", 0},
		{"more", 5, p, "never a b", 0},
		{"not enough", 0, Policy{High: 85, Low: 50, MinAge: 2 * time.Minute}, "never a b", 27},
		{"off", 0, Policy{High: 100, Low: 80}, "", 0},
		{"too old", 50, Policy{High: 85, Low: 80, MinAge: 2 * time.Minute, MaxAge: 15 * time.Minute}, "never/age a/age", 0},
	} {
		got, missing := Plan(list, Disk{Capacity: 100, Available: tc.avail}, tc.policy, now)
		if names(got) != tc.want || missing != tc.missing {
			t.Errorf("%s: %q, missing %d; want %q, %d", tc.name, got, missing, tc.want, tc.missing)
		}
	}
}

// names are the images to remove, with the reason where it is not space.
func names(list []Removal) string {
	var out []string
	for _, r := range list {
		out = append(out, strings.TrimSuffix(r.ID+"/"+r.Reason, "/space"))
	}
	return strings.Join(out, " ")
}

type cri struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	images  []string
	removed []string
}

func (c *cri) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	r := &runtimeapi.ListImagesResponse{}
	for _, id := range c.images {
		r.Images = append(r.Images, &runtimeapi.Image{Id: id, Size: 5, RepoTags: []string{id + ":tag"}})
	}
	return r, nil
}

func (c *cri) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{ImageRef: "a"}, {Image: &runtimeapi.ImageSpec{Image: "b:tag"}}}}, nil
}

func (c *cri) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}}}}, nil
}

func (c *cri) RemoveImage(_ context.Context, r *runtimeapi.RemoveImageRequest, _ ...grpc.CallOption) (*runtimeapi.RemoveImageResponse, error) {
	c.removed = append(c.removed, r.Image.Image)
	return &runtimeapi.RemoveImageResponse{}, nil
}

func TestFreeRemovesWhatNobodyUses(t *testing.T) {
	rt := &cri{images: []string{"a", "b", "c", "d"}}
	c, err := New(Config{Runtime: rt, Images: rt, Policy: Policy{High: 85, Low: 80}})
	if err != nil {
		t.Fatal(err)
	}
	freed, err := c.Free(t.Context())
	if err != nil || freed != 10 || !slices.Equal(rt.removed, []string{"c", "d"}) {
		t.Errorf("freed %d, removed %q, %v", freed, rt.removed, err)
	}
}

func TestCollectKeepsYoungImages(t *testing.T) {
	rt := &cri{images: []string{"c"}}
	c, err := New(Config{Runtime: rt, Images: rt, Policy: Policy{High: 0, Low: 0, MinAge: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Collect(t.Context()); len(rt.removed) != 0 || err == nil || !strings.Contains(err.Error(), "more bytes") {
		t.Errorf("removed %q, %v", rt.removed, err)
	}
}

func TestNewRefusesBadThresholds(t *testing.T) {
	rt := &cri{}
	if _, err := New(Config{Runtime: rt, Images: rt, Policy: Policy{High: 50, Low: 60}}); err == nil {
		t.Error("low above high was accepted")
	}
}
