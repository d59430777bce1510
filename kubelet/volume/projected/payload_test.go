package projected

import (
	"fmt"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

func TestFiles(t *testing.T) {
	data := map[string][]byte{"a": []byte("1"), "b": []byte("2")}
	for _, tc := range []struct {
		name     string
		items    []v1.KeyToPath
		optional bool
		want     []string
	}{
		{"all", nil, false, []string{"a=1 644", "b=2 644"}},
		{"items", []v1.KeyToPath{{Key: "a", Path: "x/y", Mode: ptr.To[int32](0o400)}}, false, []string{"x/y=1 400"}},
		{"one key twice", []v1.KeyToPath{{Key: "a", Path: "x"}, {Key: "a", Path: "y"}}, false, []string{"x=1 644", "y=1 644"}},
		{"missing", []v1.KeyToPath{{Key: "c", Path: "x"}}, false, []string{"references non-existent secret key: c"}},
		{"missing but optional", []v1.KeyToPath{{Key: "c", Path: "x"}, {Key: "b", Path: "b"}}, true, []string{"b=2 644"}},
	} {
		files, err := object{kind: "secret", data: data, items: tc.items, mode: 0o644, optional: tc.optional}.files()
		var got []string
		for path, f := range files {
			got = append(got, fmt.Sprintf("%s=%s %o", path, f.Data, f.Mode))
		}
		if err != nil {
			got = []string{err.Error()}
		}
		slices.Sort(got)
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestCommonUser(t *testing.T) {
	c := func(u int64) v1.Container {
		if u < 0 {
			return v1.Container{}
		}
		return v1.Container{SecurityContext: &v1.SecurityContext{RunAsUser: &u}}
	}
	for _, tc := range []struct {
		pod        int64
		containers []v1.Container
		want       int64
	}{
		{-1, []v1.Container{c(-1)}, -1},
		{5, []v1.Container{c(-1), c(5)}, 5},
		{5, []v1.Container{c(-1), c(6)}, -1},
		{-1, []v1.Container{c(6), c(6)}, 6},
		{-1, []v1.Container{c(6), c(-1)}, -1},
	} {
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: tc.containers}}
		if tc.pod >= 0 {
			pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: &tc.pod}
		}
		got := int64(-1)
		if u := commonUser(pod); u != nil {
			got = *u
		}
		if got != tc.want {
			t.Errorf("%+v: %d", tc, got)
		}
	}
}

func TestNestedIn(t *testing.T) {
	mounts := []v1.VolumeMount{
		{Name: "v", MountPath: "/etc/app"}, {Name: "w", MountPath: "/etc/app/sub/dir"}, {Name: "x", MountPath: "/etc/apple"},
		{Name: "v", MountPath: "/other", SubPath: "s"}, {Name: "y", MountPath: "/other/in"},
	}
	if got := nestedIn(mounts, "v"); !slices.Equal(got, []string{"sub/dir"}) {
		t.Errorf("got %q", got)
	}
}
