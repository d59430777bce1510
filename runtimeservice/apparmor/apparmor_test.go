package apparmor

import (
	"os/exec"
	"strings"
	"testing"
)

func TestContains(t *testing.T) {
	const list = "docker-default (enforce)\n/usr/bin/man (complain)\na (b) (enforce)\n"
	for name, want := range map[string]bool{"docker-default": true, "/usr/bin/man": true, "a (b)": true, "docker": false, "": false, "enforce": false} {
		if contains(list, name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

// TestProfile has AppArmor's own parser read the profile, which takes no kernel.
func TestProfile(t *testing.T) {
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Skipf("apparmor_parser is missing: %v", err)
	}
	cmd := exec.Command(parser, "--skip-kernel-load", "--skip-cache", "--quiet")
	cmd.Stdin = strings.NewReader(profile(Default))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
