//go:build root

package cgroup

import (
	"context"
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// TestTree makes, changes and removes groups of the machine, below a root of its own.
func TestTree(t *testing.T) {
	root := "/skiff-test-" + strings.ToLower(rand.Text())
	m, err := New(Config{Root: root, Node: Limits{Shares: ptr(2048), Memory: ptr(1 << 30), Pids: ptr(30000), CPUs: "0"}, Options: Options{Pids: 100}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, tree := range m.cfg.Layout.Roots {
			if err := removeTree(context.Background(), filepath.Join(tree, root)); err != nil {
				t.Error(err)
			}
		}
	})
	for range 2 {
		if err := m.EnsureNode(); err != nil {
			t.Fatal(err)
		}
	}
	pod := podOf("cpu=500m memory=32Mi", "cpu=1 memory=64Mi")
	group, err := m.EnsurePod(pod)
	if err != nil || group != root+"/kubepods/burstable/pod0a-1b" {
		t.Fatalf("%s, %v", group, err)
	}
	check := func(group string, want Limits) {
		t.Helper()
		for _, f := range Files(m.Version(), want) {
			data, err := os.ReadFile(filepath.Join(m.Dir(f.Controller, group), f.Name))
			if got := strings.TrimSpace(string(data)); err != nil || got != f.Value {
				t.Errorf("%s %s: %q %v, want %q", group, f.Name, got, err, f.Value)
			}
		}
	}
	check(root+"/kubepods", Limits{Memory: ptr(1 << 30), Shares: ptr(2048), Pids: ptr(30000), CPUs: "0"})
	check(group, Limits{Shares: ptr(512), Quota: ptr(100000), Memory: ptr(64 << 20), Pids: ptr(100)})
	check(root+"/kubepods/burstable", Limits{Shares: ptr(512)})

	pod.Spec.Containers[0].Resources.Limits = res("cpu=2 memory=32Mi")
	if again, err := m.EnsurePod(pod); err != nil || again != group {
		t.Fatalf("%s, %v", again, err)
	}
	check(group, Limits{Quota: ptr(200000), Memory: ptr(32 << 20)})

	// What the runtime makes below is removed too, after its process is gone.
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	leaf := filepath.Join(m.Dir("pids", group), "container")
	if err := os.Mkdir(leaf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(leaf, "cgroup.procs"), []byte(strconv.Itoa(cmd.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := m.RemovePod(ctx, pod.UID); err == nil || !strings.Contains(err.Error(), strconv.Itoa(cmd.Process.Pid)) {
		t.Errorf("removed a group with a process: %v", err)
	}
	if err := m.Retain(t.Context(), only(pod.UID)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(leaf); err != nil {
		t.Errorf("a living pod's group: %v", err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := m.Retain(t.Context(), only("")); err != nil {
		t.Fatal(err)
	}
	for _, tree := range m.cfg.Layout.Roots {
		if _, err := os.Stat(filepath.Join(tree, group)); err == nil {
			t.Errorf("left in %s", tree)
		}
	}
	check(root+"/kubepods/burstable", Limits{Shares: ptr(2)})
	if err := m.RemovePod(t.Context(), pod.UID); err != nil {
		t.Errorf("second removal: %v", err)
	}
}

// only tells of one pod that there is.
func only(uid types.UID) func(types.UID) bool { return func(u types.UID) bool { return u == uid } }
