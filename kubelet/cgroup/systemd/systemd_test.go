package systemd_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/cgroup/systemd"
	"github.com/skiff-node/skiff/kubelet/cgroup/systemd/systemdtest"
)

func start(t *testing.T, version string) (*systemd.Bus, *systemdtest.Systemd, string) {
	t.Helper()
	root := t.TempDir()
	s := systemdtest.Start(t, version, root)
	b := &systemd.Bus{Address: s.Address}
	t.Cleanup(func() { b.Close() })
	return b, s, root
}

func TestSlices(t *testing.T) {
	b, s, root := start(t, "v257.9-1~deb13u1")
	limits := []cgroup.Property{{Name: "CPUWeight", Value: uint64(7)}, {Name: "CPUQuotaPeriodUSec", Value: uint64(5000)}}
	for range 2 { // again changes nothing
		if err := b.Ensure("a-b.slice", "a.slice", limits); err != nil {
			t.Fatal(err)
		}
	}
	got := s.Unit("a-b.slice")
	if got["CPUWeight"] != uint64(7) || got["CPUQuotaPeriodUSec"] != uint64(5000) || fmt.Sprint(got["Wants"]) != "[a.slice]" ||
		got["DefaultDependencies"] != false || got["MemoryAccounting"] != true {
		t.Errorf("%v", got)
	}
	if _, err := os.Stat(filepath.Join(root, "a.slice/a-b.slice")); err != nil {
		t.Error(err)
	}
	if err := b.Ensure("a-b.slice", "a.slice", []cgroup.Property{{Name: "TasksMax", Value: uint64(math.MaxUint64)}}); err != nil {
		t.Fatal(err)
	}
	if got := s.Unit("a-b.slice"); got["CPUWeight"] != uint64(7) || got["TasksMax"] != uint64(math.MaxUint64) {
		t.Errorf("one that exists: %v", got)
	}
	if err := b.Set("none.slice", limits); err == nil || !strings.Contains(err.Error(), "none.slice") {
		t.Errorf("one that does not exist: %v", err)
	}
	for range 2 {
		if err := b.Stop("a-b.slice"); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Units(); len(n) != 0 {
		t.Errorf("%v", n)
	}
	s.End("failed")
	if err := b.Ensure("a-c.slice", "a.slice", nil); err == nil || !strings.Contains(err.Error(), `"failed"`) {
		t.Errorf("a job that failed: %v", err)
	}
}

// TestMany: each caller learns of its own job.
func TestMany(t *testing.T) {
	b, s, _ := start(t, "257")
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			unit := fmt.Sprintf("m-%d.slice", i)
			if err := b.Ensure(unit, "m.slice", nil); err != nil {
				t.Error(err)
			}
			if err := b.Stop(unit); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := s.Units(); len(n) != 0 {
		t.Errorf("%v", n)
	}
}

// TestOld: systemd before 242 knows no length of the time slice, and before 244 no processors.
func TestOld(t *testing.T) {
	for version, want := range map[string]string{"239": "9 <nil> <nil>", "242": "9 1 <nil>", "244": "9 1 [3]"} {
		b, s, _ := start(t, version)
		properties := append(cgroup.Properties(cgroup.V2, cgroup.Limits{CPUs: "0-1"}),
			cgroup.Property{Name: "CPUQuotaPeriodUSec", Value: uint64(1)}, cgroup.Property{Name: "TasksMax", Value: uint64(9)})
		if err := b.Ensure("a.slice", "-.slice", properties); err != nil {
			t.Fatal(err)
		}
		unit := s.Unit("a.slice")
		if got := fmt.Sprint(unit["TasksMax"], unit["CPUQuotaPeriodUSec"], unit["AllowedCPUs"]); got != want {
			t.Errorf("%s: %s, want %s", version, got, want)
		}
	}
}

func TestNoSystemd(t *testing.T) {
	b := &systemd.Bus{Address: "unix:path=/nonexistent"}
	if err := b.Set("a.slice", []cgroup.Property{{Name: "TasksMax", Value: uint64(1)}}); err == nil || !strings.Contains(err.Error(), "connect to systemd") {
		t.Errorf("%v", err)
	}
}

func pod(uid types.UID, request, limit string) *v1.Pod {
	list := func(text string) v1.ResourceList {
		l := v1.ResourceList{}
		for _, f := range strings.Fields(text) {
			name, value, _ := strings.Cut(f, "=")
			l[v1.ResourceName(name)] = resource.MustParse(value)
		}
		return l
	}
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: uid, Name: string(uid)}, Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{
		Requests: list(request), Limits: list(limit)}}}}}
}

// TestPods: with the systemd driver the groups of pods are slices, which bear their limits as properties and in their files, are
// resized, and go with their pods; a kubelet that starts again finds those of pods that are no more.
func TestPods(t *testing.T) {
	b, s, root := start(t, "257")
	trees := map[string]string{"cpu": root, "memory": root, "pids": root}
	eight, weight := int64(8<<30), int64(2048)
	newManager := func() *cgroup.Manager {
		t.Helper()
		m, err := cgroup.New(cgroup.Config{Units: b, Layout: cgroup.Layout{Version: cgroup.V2, Trees: trees, Roots: []string{root}},
			Node: cgroup.Limits{Memory: &eight, Shares: &weight}, Options: cgroup.Options{Pids: 100}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.EnsureNode(); err != nil {
			t.Fatal(err)
		}
		return m
	}
	check := func(unit string, want ...string) {
		t.Helper()
		var got []string
		for name, value := range s.Unit(unit) {
			if v, ok := value.(uint64); ok {
				got = append(got, fmt.Sprint(name, "=", v))
			}
		}
		slices.Sort(got)
		if strings.Join(got, " ") != strings.Join(want, " ") {
			t.Errorf("%s:\n got %q\nwant %q", unit, got, want)
		}
	}
	file := func(path, want string) {
		t.Helper()
		if data, err := os.ReadFile(filepath.Join(root, path)); err != nil || string(data) != want {
			t.Errorf("%s: %q %v, want %q", path, data, err, want)
		}
	}
	m := newManager()
	check("kubepods.slice", "CPUWeight=174", "MemoryLow=0", "MemoryMax=8589934592", "MemoryMin=0")
	check("kubepods-besteffort.slice", "CPUWeight=1", "MemoryMax=18446744073709551615")
	p := pod("0a-1b", "cpu=500m memory=32Mi", "cpu=1001m memory=64Mi")
	parent, err := m.EnsurePod(p)
	if err != nil || parent != "kubepods-burstable-pod0a_1b.slice" {
		t.Fatalf("%s, %v", parent, err)
	}
	dir := "kubepods.slice/kubepods-burstable.slice/" + parent
	check(parent, "CPUQuotaPerSecUSec=1010000", "CPUQuotaPeriodUSec=100000", "CPUWeight=59", "MemoryMax=67108864", "TasksMax=100")
	file(dir+"/cpu.max", "101000 100000") // whole percents, as systemd has them
	file(dir+"/memory.max", "67108864")
	check("kubepods-burstable.slice", "CPUWeight=59", "MemoryLow=0", "MemoryMax=18446744073709551615")
	file("kubepods.slice/kubepods-burstable.slice/cpu.weight", "59")

	p = pod("0a-1b", "cpu=500m memory=32Mi", "cpu=2 memory=16Mi")
	err = m.ResizePod(p, func() error { // while the containers change, anything goes
		check(parent, "CPUQuotaPerSecUSec=18446744073709551615", "CPUQuotaPeriodUSec=100000", "CPUWeight=59", "MemoryMax=18446744073709551615", "TasksMax=100")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	check(parent, "CPUQuotaPerSecUSec=2000000", "CPUQuotaPeriodUSec=100000", "CPUWeight=59", "MemoryMax=16777216", "TasksMax=100")
	file(dir+"/memory.max", "16777216")

	if _, err := m.EnsurePod(pod("9", "", "")); err != nil {
		t.Fatal(err)
	}
	m = newManager()
	m.Adopt(p)
	check("kubepods-burstable.slice", "CPUWeight=59", "MemoryLow=0", "MemoryMax=18446744073709551615")
	if err := m.Retain(t.Context(), func(uid types.UID) bool { return uid == p.UID }); err != nil {
		t.Fatal(err)
	}
	if got := s.Units(); len(got) != 4 || slices.Contains(got, "kubepods-besteffort-pod9.slice") {
		t.Errorf("after the sweep: %q", got)
	}
	if err := m.RemovePod(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if got := s.Units(); len(got) != 3 {
		t.Errorf("left: %q", got)
	}
	check("kubepods-burstable.slice", "CPUWeight=1", "MemoryLow=0", "MemoryMax=18446744073709551615")
}

// TestReserved: groups that exist are limited through systemd as well, under whichever name they are given.
func TestReserved(t *testing.T) {
	b, s, root := start(t, "257")
	for _, unit := range []string{"system.slice", "runtime-kube.slice"} {
		if err := b.Ensure(unit, "-.slice", nil); err != nil {
			t.Fatal(err)
		}
	}
	one := int64(1 << 30)
	m, err := cgroup.New(cgroup.Config{Units: b, Layout: cgroup.Layout{Version: cgroup.V2, Trees: map[string]string{"cpu": root, "memory": root, "pids": root}, Roots: []string{root}},
		Reserved: map[string]cgroup.Limits{"/system.slice": {Memory: &one}, "runtime-kube.slice": {Memory: &one}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.EnsureNode(); err != nil {
		t.Fatal(err)
	}
	for _, unit := range []string{"system.slice", "runtime-kube.slice"} {
		if got := s.Unit(unit); got["MemoryMax"] != uint64(1<<30) {
			t.Errorf("%s: %v", unit, got)
		}
	}
	if data, err := os.ReadFile(filepath.Join(root, "runtime.slice/runtime-kube.slice/memory.max")); err != nil || string(data) != "1073741824" {
		t.Errorf("%q %v", data, err)
	}
}
