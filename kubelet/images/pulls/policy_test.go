package pulls

import (
	"strings"
	"testing"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

func TestVerifies(t *testing.T) {
	const digest = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	allow := []string{"r.example/a", "r.example/team/*", "busybox"}
	for _, tc := range []struct {
		policy kubeletconfig.ImagePullCredentialsVerificationPolicy
		image  string
		ours   bool
		want   bool
	}{
		{"NeverVerify", "a", true, false},
		{"", "a", false, false}, {"", "a", true, true},
		{"NeverVerifyPreloadedImages", "a", false, false}, {"NeverVerifyPreloadedImages", "a", true, true},
		{"AlwaysVerify", "a", false, true},
		{"NeverVerifyAllowlistedImages", "r.example/a:1", true, false},
		{"NeverVerifyAllowlistedImages", "r.example/a:1" + digest, false, false},
		{"NeverVerifyAllowlistedImages", "r.example/ab", false, true},
		{"NeverVerifyAllowlistedImages", "r.example/a/b", false, true},
		{"NeverVerifyAllowlistedImages", "r.example/team/x/y" + digest, false, false},
		{"NeverVerifyAllowlistedImages", "r.example/teams/x", false, true},
		{"NeverVerifyAllowlistedImages", "busybox", false, false},
		{"NeverVerifyAllowlistedImages", "docker.io/library/busybox", false, true}, // names are compared as they are written
	} {
		var list []string
		if tc.policy == kubeletconfig.NeverVerifyAllowlistedImages {
			list = allow
		}
		p, err := NewPolicy(tc.policy, list)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.verifies(tc.image, tc.ours); got != tc.want {
			t.Errorf("%s: %s, pulled here: %v: %v", tc.policy, tc.image, tc.ours, got)
		}
	}
}

func TestPolicyRefuses(t *testing.T) {
	for pattern, want := range map[string]string{
		" a": "leading/trailing spaces are not allowed", "": "too short", "/*": "at least registry hostname is required", "r.example/*/a": "only patterns ending with '/*' are allowed",
		"r.example/a*": "only patterns ending with '/*' are allowed", "r.*/a/*": "only patterns ending with '/*' are allowed", "a:1": "neither tag nor digest is accepted",
		"UPPER": "failed to parse as an image name",
	} {
		if _, err := NewPolicy(kubeletconfig.NeverVerifyAllowlistedImages, []string{pattern}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", pattern, err, want)
		}
	}
	if _, err := NewPolicy("Sometimes", nil); err == nil || !strings.Contains(err.Error(), `"Sometimes": valid options are "NeverVerify"`) {
		t.Errorf("%v", err)
	}
	if _, err := NewPolicy(kubeletconfig.AlwaysVerify, []string{"a"}); err == nil || !strings.Contains(err.Error(), "preloadedImagesVerificationAllowlist: needs") {
		t.Errorf("%v", err)
	}
}
