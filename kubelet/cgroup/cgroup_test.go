package cgroup

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// res reads "cpu=1 memory=64Mi" as a resource list.
func res(text string) v1.ResourceList {
	l := v1.ResourceList{}
	for _, f := range strings.Fields(text) {
		name, value, _ := strings.Cut(f, "=")
		l[v1.ResourceName(name)] = resource.MustParse(value)
	}
	return l
}

// podOf makes a pod with a container for each pair of requests and limits.
func podOf(pairs ...string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "0a-1b"}}
	for i := 0; i < len(pairs); i += 2 {
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: fmt.Sprint(i),
			Resources: v1.ResourceRequirements{Requests: res(pairs[i]), Limits: res(pairs[i+1])}})
	}
	return pod
}

func TestPodFiles(t *testing.T) {
	opts := Options{Pids: 1000, PageSizes: []int64{2 << 20, 1 << 30}}
	for _, tc := range []struct {
		name   string
		pod    *v1.Pod
		opts   Options
		class  Class
		v1, v2 string
	}{
		{"best effort", podOf("", ""), Options{}, v1.PodQOSBestEffort, "cpu.shares=2", "cpu.weight=1"},
		{"guaranteed", podOf("cpu=1 memory=64Mi", "cpu=1 memory=64Mi"), Options{}, v1.PodQOSGuaranteed,
			"cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=100000 memory.limit_in_bytes=67108864",
			"cpu.weight=100 cpu.max=100000 100000 memory.max=67108864"},
		{"burstable without limits", podOf("cpu=250m", ""), Options{}, v1.PodQOSBurstable, "cpu.shares=256", "cpu.weight=35"},
		{"one container without a memory limit", podOf("cpu=100m", "cpu=200m memory=10Mi", "cpu=100m", "cpu=300m"), Options{}, v1.PodQOSBurstable,
			"cpu.shares=204 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000", "cpu.weight=29 cpu.max=50000 100000"},
		{"tiny limit", podOf("cpu=1m memory=1Ki", "cpu=1m memory=1Mi"), Options{}, v1.PodQOSBurstable,
			"cpu.shares=2 cpu.cfs_period_us=100000 cpu.cfs_quota_us=1000 memory.limit_in_bytes=1048576", "cpu.weight=1 cpu.max=1000 100000 memory.max=1048576"},
		{"shorter slices", podOf("cpu=1 memory=1Mi", "cpu=1 memory=1Mi"), Options{Period: 5000}, v1.PodQOSGuaranteed,
			"cpu.shares=1024 cpu.cfs_period_us=5000 cpu.cfs_quota_us=5000 memory.limit_in_bytes=1048576", "cpu.weight=100 cpu.max=5000 5000 memory.max=1048576"},
		{"quota off", podOf("cpu=1 memory=1Mi", "cpu=1 memory=1Mi"), Options{NoQuota: true, Pids: Unlimited}, v1.PodQOSGuaranteed,
			"cpu.shares=1024 cpu.cfs_period_us=100000 cpu.cfs_quota_us=-1 memory.limit_in_bytes=1048576 pids.max=max",
			"cpu.weight=100 cpu.max=max 100000 memory.max=1048576 pids.max=max"},
		{"huge pages and pids", podOf("hugepages-2Mi=4Mi", "hugepages-2Mi=4Mi"), opts, v1.PodQOSBestEffort,
			"cpu.shares=2 pids.max=1000 hugetlb.2MB.limit_in_bytes=4194304 hugetlb.1GB.limit_in_bytes=0",
			"cpu.weight=1 pids.max=1000 hugetlb.2MB.max=4194304 hugetlb.1GB.max=0"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if got := ClassOf(tc.pod); got != tc.class {
				t.Errorf("class %s, want %s", got, tc.class)
			}
			for version, want := range map[Version]string{V1: tc.v1, V2: tc.v2} {
				var got []string
				for _, f := range Files(version, PodLimits(tc.pod, tc.opts)) {
					if !strings.HasPrefix(f.Name, f.Controller+".") {
						t.Errorf("%s is not a file of controller %s", f.Name, f.Controller)
					}
					got = append(got, f.Name+"="+f.Value)
				}
				if text := strings.Join(got, " "); text != want {
					t.Errorf("%s:\n got %s\nwant %s", version, text, want)
				}
			}
		})
	}
}

// TestCPUs: the list goes to one file in both versions, and to systemd as a mask, where that has a tree for it.
func TestCPUs(t *testing.T) {
	l := Limits{CPUs: "0-2,9"}
	for _, version := range []Version{V1, V2} {
		if got := fmt.Sprint(Files(version, l)); got != "[{cpuset cpuset.cpus 0-2,9}]" {
			t.Errorf("%s: %s", version, got)
		}
		if got := Files(version, Limits{}); len(got) != 0 {
			t.Errorf("%s, any processor: %v", version, got)
		}
	}
	if got := fmt.Sprint(Properties(V2, l), Properties(V1, l), Properties(V2, Limits{})); got != "[{AllowedCPUs [7 2]}] [] []" {
		t.Error(got)
	}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "cpuset.cpus"), []byte("0-1,8-11\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := (Layout{Trees: map[string]string{"cpuset": root}}).among(l.CPUs, "/"); got != "0-1,9" {
		t.Errorf("below a group that has not all of them: %s", got)
	}
}

func TestPodLevelResources(t *testing.T) {
	pod := podOf("cpu=1", "")
	pod.Spec.Resources = &v1.ResourceRequirements{Requests: res("cpu=1 memory=1Gi"), Limits: res("cpu=1 memory=1Gi")}
	if got := ClassOf(pod); got != v1.PodQOSGuaranteed {
		t.Errorf("class %s", got)
	}
}

func TestWeight(t *testing.T) {
	// The values that opencontainers/cgroups documents for its curve.
	for shares, want := range map[int64]int64{0: 1, 2: 1, 1024: 100, 262144: 10000, 300000: 10000} {
		if got := Weight(shares); got != want {
			t.Errorf("%d shares: weight %d, want %d", shares, got, want)
		}
	}
	for s, before := int64(2), int64(0); s <= maxShares; s *= 2 {
		if got := Weight(s); got <= before {
			t.Errorf("not rising at %d: %d after %d", s, got, before)
		} else {
			before = got
		}
	}
}

func TestNames(t *testing.T) {
	for _, tc := range []struct {
		root        string
		class       Class
		path, slice string
	}{
		{"", v1.PodQOSGuaranteed, "/kubepods/pod0a-1b", "kubepods-pod0a_1b.slice"},
		{"/", v1.PodQOSBurstable, "/kubepods/burstable/pod0a-1b", "kubepods-burstable-pod0a_1b.slice"},
		{"/test-x", v1.PodQOSBestEffort, "/test-x/kubepods/besteffort/pod0a-1b", "test_x-kubepods-besteffort-pod0a_1b.slice"},
	} {
		if got := Path(tc.root, tc.class, "0a-1b"); got != tc.path {
			t.Errorf("path %s, want %s", got, tc.path)
		}
		if got := Slice(tc.root, tc.class, "0a-1b"); got != tc.slice {
			t.Errorf("slice %s, want %s", got, tc.slice)
		}
	}
}

func TestParseMounts(t *testing.T) {
	for _, tc := range []struct {
		name, mounts, trees, unified string
		roots                        int
	}{
		{"hybrid, cpu and cpuacct apart", `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw`,
			"cpu=/sys/fs/cgroup/cpu cpuacct=/sys/fs/cgroup/cpuacct systemd=/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", 4},
		{"together", `32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,release_agent=/lib/agent,name=systemd
39 31 0:29 / /other rw - cgroup cgroup rw,cpu,cpuacct`,
			"cpu=/sys/fs/cgroup/cpu,cpuacct cpuacct=/sys/fs/cgroup/cpu,cpuacct systemd=/sys/fs/cgroup/systemd", "", 2},
		{"version 2", `30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate`, "", "/sys/fs/cgroup", 1},
	} {
		l, unified, err := parseMounts(strings.NewReader(tc.mounts))
		if err != nil || unified != tc.unified || len(l.Roots) != tc.roots {
			t.Errorf("%s: unified %q, roots %v, %v", tc.name, unified, l.Roots, err)
		}
		var got []string
		for _, c := range slices.Sorted(maps.Keys(l.Trees)) {
			got = append(got, c+"="+l.Trees[c])
		}
		if strings.Join(got, " ") != tc.trees {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

func halfway(request, limit int64) int64 {
	if request == limit {
		return 0
	}
	return (request + limit) / 2
}

// TestProtection: what pods request of memory is protected in their groups, and above them, where the kernel looks first.
func TestProtection(t *testing.T) {
	root := t.TempDir()
	trees := map[string]string{}
	for _, c := range []string{"cpu", "memory", "pids"} {
		trees[c] = root
	}
	m, err := New(Config{Layout: Layout{Version: V2, Trees: trees, Roots: []string{root}},
		Options: Options{Tiered: true, High: halfway}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.EnsureNode(); err != nil {
		t.Fatal(err)
	}
	ensure := func(uid types.UID, p *v1.Pod) {
		p.UID = uid
		if _, err := m.EnsurePod(p); err != nil {
			t.Fatal(err)
		}
	}
	check := func(group, want string) {
		t.Helper()
		var got []string
		for _, file := range []string{"memory.min", "memory.low", "memory.high"} {
			if data, err := os.ReadFile(filepath.Join(root, group, file)); err == nil {
				got = append(got, file+"="+string(data))
			}
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s: %q, want %q", group, text, want)
		}
	}
	ensure("g", podOf("cpu=1 memory=4Ki", "cpu=1 memory=4Ki"))
	ensure("b", podOf("memory=2Ki", "memory=8Ki"))
	whole := podOf("", "")
	whole.Spec.Resources = &v1.ResourceRequirements{Requests: res("memory=1Ki"), Limits: res("memory=3Ki")}
	ensure("w", whole)
	check("kubepods/podg", "memory.min=4096")
	check("kubepods/burstable/podb", "memory.low=2048")
	check("kubepods/burstable/podw", "memory.low=1024 memory.high=2048")
	check("kubepods/burstable", "memory.low=3072")
	check("kubepods", "memory.min=7168 memory.low=3072")
	// In place to a request that is the limit: nothing is left to be throttled at.
	whole.Spec.Resources.Requests, whole.Spec.Resources.Limits = res("memory=3Ki"), res("memory=3Ki")
	if err := m.ResizePod(whole, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	check("kubepods/burstable/podw", "memory.low=3072 memory.high=max")
	whole.Spec.Resources.Requests = res("memory=1Ki")
	if err := m.ResizePod(whole, func() error { return nil }); err != nil {
		t.Fatal(err)
	}
	check("kubepods/burstable/podw", "memory.low=1024 memory.high=2048")
	if guaranteed, burstable := m.Protected(); guaranteed != 4096 || burstable != 3072 {
		t.Errorf("%d, %d", guaranteed, burstable)
	}
}

// TestAdopt: pods that were started before this kubelet weigh, and are protected, as if it had started them.
func TestAdopt(t *testing.T) {
	root := t.TempDir()
	trees := map[string]string{"cpu": root, "memory": root, "pids": root}
	start := func() *Manager {
		m, err := New(Config{Layout: Layout{Version: V2, Trees: trees, Roots: []string{root}}, Options: Options{Tiered: true}})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.EnsureNode(); err != nil {
			t.Fatal(err)
		}
		return m
	}
	ensure := func(m *Manager, uid types.UID, p *v1.Pod) {
		p.UID = uid
		if _, err := m.EnsurePod(p); err != nil {
			t.Fatal(err)
		}
	}
	check := func(when, weight, low string) {
		t.Helper()
		for file, want := range map[string]string{"cpu.weight": weight, "memory.low": low} {
			if got, err := os.ReadFile(filepath.Join(root, "kubepods/burstable", file)); err != nil || string(got) != want {
				t.Errorf("%s: %s is %q, want %q; %v", when, file, got, want, err)
			}
		}
	}
	old := podOf("cpu=4 memory=4Ki", "")
	ensure(start(), "old", old)
	check("before", fmt.Sprint(Weight(Shares(4000))), "4096")
	m := start()
	check("after the start", fmt.Sprint(Weight(Shares(4000))), "4096")
	untiered, err := New(Config{Layout: m.layout})
	if err != nil || untiered.EnsureNode() != nil {
		t.Fatal(err)
	}
	check("after a start that protects nothing", fmt.Sprint(Weight(Shares(4000))), "0")
	m.Adopt(old)
	ensure(m, "new", podOf("cpu=1 memory=1Ki", ""))
	check("with another pod", fmt.Sprint(Weight(Shares(5000))), "5120")
}

// TestFlat: without groups for pods the runtime chooses their place, and only a group that the operator has made is limited.
func TestFlat(t *testing.T) {
	dir := t.TempDir()
	layout := Layout{Version: V2, Trees: map[string]string{"cpu": dir, "memory": dir, "pids": dir}, Roots: []string{dir}}
	for _, tc := range []struct {
		root, made, wants string // wants of cpu.weight in made, or an error
	}{
		{"/", "other", ""},
		{"/pods", "pods", "100"},
		{"/missing", "", "does not exist"},
	} {
		if tc.made != "" {
			if err := os.MkdirAll(filepath.Join(dir, tc.made), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		m, err := New(Config{Root: tc.root, Layout: layout, Node: Limits{Shares: ptr(1024)}})
		if err != nil {
			t.Fatal(err)
		}
		f := Flat{Manager: m}
		if err := f.EnsureNode(); err != nil {
			if tc.made != "" || !strings.Contains(err.Error(), tc.wants) {
				t.Errorf("%s: %v", tc.root, err)
			}
			continue
		}
		if data, _ := os.ReadFile(filepath.Join(dir, tc.made, "cpu.weight")); string(data) != tc.wants {
			t.Errorf("%s: weight %q, want %q", tc.root, data, tc.wants)
		}
		pod, ran := podOf("cpu=1", ""), false
		parent, err := f.EnsurePod(pod)
		if err != nil || parent != "" {
			t.Errorf("%s: parent %q, %v", tc.root, parent, err)
		}
		f.Adopt(pod)
		if err := f.ResizePod(pod, func() error { ran = true; return nil }); err != nil || !ran {
			t.Errorf("%s: resized %v, %v", tc.root, ran, err)
		}
		if err := errors.Join(f.Retain(t.Context(), func(types.UID) bool { return false }), f.RemovePod(t.Context(), pod.UID)); err != nil {
			t.Error(err)
		}
		if found, _ := filepath.Glob(filepath.Join(dir, "kubepods*")); len(found) != 0 {
			t.Errorf("%s: made %q", tc.root, found)
		}
	}
}

func TestReserve(t *testing.T) {
	for _, tc := range []struct {
		percent               int64
		s                     sums
		burstable, bestEffort int64
	}{
		{100, sums{}, 1000, 1000},
		{100, sums{guaranteedBytes: 300}, 700, 700},
		{100, sums{guaranteedBytes: 300, burstableBytes: 200}, 700, 500},
		{50, sums{guaranteedBytes: 300, burstableBytes: 200}, 850, 750},
		{100, sums{guaranteedBytes: 800, burstableBytes: 400}, 200, 0},
	} {
		burstable, bestEffort := Reserve{Percent: tc.percent, Allocatable: 1000}.limits(tc.s)
		if burstable != tc.burstable || bestEffort != tc.bestEffort {
			t.Errorf("%+v: %d, %d", tc, burstable, bestEffort)
		}
	}
}

// TestReserved: the worse classes have less as pods of better ones come, and more as they go; a start that reserves nothing takes
// the limits back.
func TestReserved(t *testing.T) {
	root := t.TempDir()
	layout := Layout{Version: V2, Trees: map[string]string{"cpu": root, "memory": root, "pids": root}, Roots: []string{root}}
	start := func(r Reserve) *Manager {
		t.Helper()
		m, err := New(Config{Layout: layout, Reserve: r})
		if err != nil {
			t.Fatal(err)
		}
		if err := m.EnsureNode(); err != nil {
			t.Fatal(err)
		}
		return m
	}
	check := func(when, burstable, bestEffort string) {
		t.Helper()
		for tier, want := range map[string]string{"burstable": burstable, "besteffort": bestEffort} {
			if got, err := os.ReadFile(filepath.Join(root, "kubepods", tier, "memory.max")); err != nil || string(got) != want {
				t.Errorf("%s: %s has %q, want %q; %v", when, tier, got, want, err)
			}
		}
	}
	m := start(Reserve{Percent: 50, Allocatable: 8192})
	g, b := podOf("cpu=1 memory=4Ki", "cpu=1 memory=4Ki"), podOf("memory=1Ki", "")
	g.UID, b.UID = "g", "b"
	for _, p := range []*v1.Pod{g, b} {
		if _, err := m.EnsurePod(p); err != nil {
			t.Fatal(err)
		}
	}
	check("both", "6144", "5632")
	// What uses more than it may, and gives nothing back (the kernel says so by EBUSY in version 1), may not grow.
	limit := filepath.Join(root, "kubepods/burstable/memory.max")
	if err := errors.Join(os.Remove(limit), os.Mkdir(limit, 0o755), os.WriteFile(filepath.Join(root, "kubepods/burstable/memory.current"), []byte("7000\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	m.tiers.burstable = 0
	m.mu.Lock()
	m.updateTiers()
	m.mu.Unlock()
	if m.tiers.burstable != 0 {
		t.Error("a limit that could not be set counts as set")
	}
	if err := os.Remove(limit); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Hold(ctx, time.Millisecond) }()
	for {
		if got, _ := os.ReadFile(limit); string(got) == "6144" {
			break
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	check("tried again", "6144", "5632")
	start(Reserve{})
	check("nothing reserved", "max", "max")
}

// TestReservedGroups: a group that others have made is limited to what is reserved for it, in huge pages only where it has such limits.
func TestReservedGroups(t *testing.T) {
	root := t.TempDir()
	trees := map[string]string{"cpu": root, "memory": root, "pids": root, "hugetlb": root, "cpuset": root}
	for _, group := range []string{"with", "without"} {
		if err := os.Mkdir(filepath.Join(root, group), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "with/hugetlb.2MB.max"), []byte("max"), 0o644); err != nil {
		t.Fatal(err)
	}
	reserved := Limits{Shares: ptr(1024), Pids: ptr(50), HugePages: map[int64]int64{2 << 20: 0}, CPUs: "0"}
	m, err := New(Config{Layout: Layout{Version: V2, Trees: trees, Roots: []string{root}}, Reserved: map[string]Limits{"/with": reserved, "/without": reserved}, Node: Limits{CPUs: "0-1"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.EnsureNode(); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"with/cpu.weight": "100", "with/pids.max": "50", "with/hugetlb.2MB.max": "0", "with/cpuset.cpus": "", "kubepods/cpuset.cpus": "0-1",
		"without/cpu.weight": "100", "without/pids.max": "50", "without/hugetlb.2MB.max": ""} {
		if got, _ := os.ReadFile(filepath.Join(root, file)); string(got) != want {
			t.Errorf("%s: %q, want %q", file, got, want)
		}
	}
}

// TestLimitLater: pods that use more than all may have are no reason not to start; the limit is set once they do not.
func TestLimitLater(t *testing.T) {
	root := t.TempDir()
	limit := filepath.Join(root, "kubepods/memory.max")
	if err := os.MkdirAll(limit, 0o755); err != nil { // nothing can be written to it
		t.Fatal(err)
	}
	m, err := New(Config{Layout: Layout{Version: V2, Trees: map[string]string{"cpu": root, "memory": root, "pids": root}, Roots: []string{root}},
		Node: Limits{Memory: ptr(4096)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.EnsureNode(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(limit); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := m.EnsurePod(podOf("cpu=1", "")); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(limit); err != nil || string(got) != "4096" || m.tiers.open {
		t.Errorf("%q, %v", got, err)
	}
}

func TestOwn(t *testing.T) {
	for text, want := range map[string]string{
		"0::/system.slice/kubelet.service\n":       "v2 /system.slice/kubelet.service",
		"4:cpu,cpuacct:/a\n3:memory:/a\n0::/\n":    "v1 /a",
		"4:cpu,cpuacct:/a\n3:memory:/b\n0::/x:y\n": "v1 cpu and memory cgroup hierarchy not unified",
	} {
		version := V2
		if strings.HasPrefix(want, "v1") {
			version = V1
		}
		got, err := own(text, version)
		if err != nil {
			got = err.Error()
		}
		if version.String()+" "+got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
