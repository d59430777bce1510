//go:build root

package keeper_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// TestCgroupMountsAreRuncs compares what a container sees below /sys/fs/cgroup with what runc's own command makes.
func TestCgroupMountsAreRuncs(t *testing.T) {
	runc, err := exec.LookPath("runc")
	if err != nil {
		t.Skip("needs Debian's runc, to compare with")
	}
	if cgroup2(t) {
		t.Skip("the machine has cgroup v2, where libcontainer mounts: nothing of ours to compare")
	}
	n := start(t)
	for _, access := range []string{"ro", "rw"} {
		seen := func(rt keeper.Runtime) []string {
			spec := n.spec("x", "sleep", "600")
			spec.Version = "1.0.2"
			spec.Mounts = append(spec.Mounts,
				specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
				specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", access}})
			req := n.request("x", spec)
			req.Runtime = rt
			n.create(req)
			n.start("x")
			defer func() { n.kill("x", 9); n.wait("x"); n.delete("x") }()
			if state, err := os.ReadFile(filepath.Join(n.run, "runc/x/state.json")); err == nil {
				t.Logf("mounted as a tree: %v", strings.Contains(string(state), "skiff-cgroup-v1="))
			}
			return cgroupMounts(t, n.pidOf("x"))
		}
		ours, theirs := seen(keeper.Runtime{}), seen(keeper.Runtime{Handler: "runc", Path: runc})
		if len(ours) < 5 || !slices.Equal(ours, theirs) {
			t.Errorf("%s: ours:\n%s\nrunc's:\n%s", access, strings.Join(ours, "\n"), strings.Join(theirs, "\n"))
		}
	}
}

// cgroupMounts lists root, place, options, propagation, type and options of the file system, and then the names in the
// directory.
func cgroupMounts(t *testing.T, pid int) []string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) > 9 && strings.HasPrefix(fields[4], "/sys/fs/cgroup") {
			out = append(out, strings.Join(fields[3:], " "))
		}
	}
	slices.Sort(out)
	names, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/sys/fs/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		out = append(out, fmt.Sprint(name))
	}
	return out
}
