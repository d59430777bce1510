//go:build root

package systemd

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/kubelet/cgroup"
)

// TestRealSystemd makes slices with the systemd that the machine was booted with, below one of its own, and reads in the kernel's files
// what became of them; also after systemd has been reloaded, when it writes what it knows.
func TestRealSystemd(t *testing.T) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		t.Skip("this machine was not booted with systemd")
	}
	b, err := New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	conn, err := b.systemd()
	if err != nil {
		t.Fatal(err)
	}
	byBus := conn.Names()[0] != "" // a name is what the bus gives; on systemd's own socket there is none
	t.Logf("systemd %d, by the bus: %v", b.version, byBus)
	if want := os.Getenv("WANT_BUS"); want != "" && byBus != (want == "yes") {
		t.Fatalf("by the bus: %v, but WANT_BUS=%s", byBus, want)
	}
	layout, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	name := "skifftest" + strings.ToLower(rand.Text())
	top := name + ".slice"
	t.Cleanup(func() {
		if err := b.Stop(top); err != nil {
			t.Error(err)
		}
	})
	gib, shares := int64(1<<30), int64(2048)
	m, err := cgroup.New(cgroup.Config{Root: "/" + name, Units: b, Layout: layout, Node: cgroup.Limits{Memory: &gib, Shares: &shares}, Options: cgroup.Options{Pids: 100}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.EnsureNode(); err != nil {
		t.Fatal(err)
	}
	list := func(cpu, memory string) v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "0a-1b"}, Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{
		Requests: list("500m", "32Mi"), Limits: list("1", "64Mi")}}}}}
	slice, err := m.EnsurePod(pod)
	if err != nil {
		t.Fatal(err)
	}
	tier := filepath.Join("/", top, name+"-kubepods.slice", name+"-kubepods-burstable.slice")
	group := filepath.Join(tier, slice)
	check := func(when, group string, limits cgroup.Limits) {
		t.Helper()
		for _, f := range cgroup.Files(layout.Version, limits) {
			data, err := os.ReadFile(filepath.Join(m.Dir(f.Controller, group), f.Name))
			if got := strings.TrimSpace(string(data)); err != nil || got != f.Value {
				t.Errorf("%s: %s %s is %q, want %q; %v", when, group, f.Name, got, f.Value, err)
			}
		}
	}
	limits := cgroup.PodLimits(pod, cgroup.Options{Pids: 100})
	reload := func() {
		t.Helper()
		conn, err := b.systemd()
		if err != nil {
			t.Fatal(err)
		}
		if err := call(conn, "Reload").Err; err != nil {
			t.Fatal(err)
		}
	}
	check("made", group, limits)
	check("made", filepath.Dir(tier), cgroup.Limits{Memory: &gib, Shares: &shares})
	reload()
	check("after a reload", group, limits)
	check("after a reload", tier, cgroup.Limits{Shares: limits.Shares})
	pod.Spec.Containers[0].Resources.Limits = list("2", "48Mi")
	if err := m.ResizePod(pod, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	limits = cgroup.PodLimits(pod, cgroup.Options{Pids: 100})
	reload()
	check("resized", group, limits)
	if err := m.RemovePod(t.Context(), pod.UID); err != nil {
		t.Fatal(err)
	}
	for _, root := range layout.Roots {
		if _, err := os.Stat(filepath.Join(root, group)); err == nil {
			t.Errorf("left in %s", root)
		}
	}
}
