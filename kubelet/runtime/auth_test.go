package runtime

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestFitting(t *testing.T) {
	secret := &v1.Secret{Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(`{"auths": {
		"reg.example": {"username": "u", "password": "p"}, "reg.example/team": {"auth": "YTpi"},
		"*.wild.example": {"username": "w"}, "https://index.docker.io/v1/": {"username": "hub"}, "reg.example:5000": {"username": "port"}}}`)}}
	for image, want := range map[string][]string{
		"reg.example/app:1": {"u"}, "reg.example/team/app": {"a", "u"}, "reg.example/teams/app": {"u"}, "x.wild.example/a": {"w"},
		"wild.example/a": nil, "busybox": {"hub"}, "docker.io/library/busybox": {"hub"}, "reg.example:5000/a": {"port"}, "other.example/a": nil,
	} {
		got := fitting(logins(secret), image)
		if len(got) != len(want) {
			t.Errorf("%s: %v, want %v", image, got, want)
			continue
		}
		for i := range got {
			if got[i].Username != want[i] {
				t.Errorf("%s: %v, want %v", image, got, want)
			}
		}
	}
}

func TestWithTag(t *testing.T) {
	for in, want := range map[string]string{"a": "a:latest", "a:1": "a:1", "r:5/a": "r:5/a:latest",
		"a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855": "a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"} {
		if got, err := withTag(in); err != nil || got != want {
			t.Errorf("%s: %s %v", in, got, err)
		}
	}
	if _, err := withTag("UPPER case"); err == nil {
		t.Error("accepted")
	}
}
