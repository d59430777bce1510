package convert

import (
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/imageservice"
)

func TestImage(t *testing.T) {
	for user, want := range map[string]struct {
		uid  *cri.Int64Value
		name string
	}{
		"": {uid: &cri.Int64Value{}}, "1000": {uid: &cri.Int64Value{Value: 1000}}, "7:8": {uid: &cri.Int64Value{Value: 7}},
		"www": {name: "www"}, "www:8": {name: "www"},
	} {
		got := Image(imageservice.Image{ID: "sha256:a", Size: 5, Config: imageservice.Config{User: user}, Annotations: map[string]string{"k": "v"}})
		if got.GetUid().GetValue() != want.uid.GetValue() || (got.Uid == nil) != (want.uid == nil) || got.Username != want.name {
			t.Errorf("%q: uid %v, user %q", user, got.Uid, got.Username)
		}
		if got.Id != "sha256:a" || got.Spec.Image != got.Id || got.Spec.Annotations["k"] != "v" || got.Size != 5 {
			t.Errorf("got %+v", got)
		}
	}
	if got := Image(imageservice.Image{ID: "sha256:a", ArtifactType: "x/y"}); got.Uid != nil || got.Username != "" {
		t.Errorf("an artifact has a user: %+v", got)
	}
}
