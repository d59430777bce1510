package processes

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/kubelet/cgroup"
)

func TestMovable(t *testing.T) {
	got := movable([]int{1, 2, 3, 40, 50}, func(pid int) bool { return pid < 10 && pid != 3 })
	if !slices.Equal(got, []int{3, 40, 50}) {
		t.Errorf("%v", got)
	}
	if isKernel(os.Getpid()) {
		t.Error("this is no thread of the kernel")
	}
}

// TestFiles: in trees that are none, of either version.
func TestFiles(t *testing.T) {
	for name, layout := range map[string]cgroup.Layout{"v1": {Version: cgroup.V1}, "v2": {Version: cgroup.V2}} {
		root := t.TempDir()
		if layout.Version == cgroup.V1 {
			layout.Roots = []string{filepath.Join(root, "a"), filepath.Join(root, "b")}
			layout.Trees = map[string]string{"cpu": layout.Roots[0], "devices": layout.Roots[1]}
		} else {
			layout.Roots = []string{root}
			layout.Trees = map[string]string{"cpu": root, "memory": root}
		}
		for _, dir := range layout.Roots {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte("1\n0\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		k, err := New(Config{Layout: layout, Kubelet: "/kube/let", System: "/system"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := k.Keep(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for _, dir := range layout.Roots {
			if got, err := os.ReadFile(filepath.Join(dir, "kube/let/cgroup.procs")); err != nil || len(got) == 0 {
				t.Errorf("%s: the kubelet is not in its group: %q, %v", name, got, err)
			}
			if got, err := os.ReadFile(filepath.Join(dir, "system/cgroup.procs")); err == nil {
				t.Errorf("%s: moved %q", name, got)
			}
		}
		if got, err := os.ReadFile(filepath.Join(root, "cgroup.subtree_control")); layout.Version == cgroup.V2 && string(got) != "+cpu +memory" {
			t.Errorf("controllers handed down: %q, %v", got, err)
		}
		if _, err := New(Config{Layout: layout, System: "/"}); err == nil || !strings.Contains(err.Error(), "systemCgroups") {
			t.Errorf("the root as the system's: %v", err)
		}
	}
}
