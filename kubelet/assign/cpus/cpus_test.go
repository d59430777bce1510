package cpus

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/cpuset"

	"google.golang.org/grpc"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// machine has two sockets of two cores with two threads each: CPUs 0-3 are the first threads, 4-7 the second ones.
func machine() Topology {
	var t Topology
	for id := range 8 {
		t = append(t, CPU{ID: id, Socket: id % 4 / 2, Core: id % 2})
	}
	return t
}

func set(t *testing.T, s string) cpuset.CPUSet {
	t.Helper()
	c, err := cpuset.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestTake(t *testing.T) {
	for _, c := range []struct {
		free  string
		count int
		want  string
	}{
		{"0-7", 8, "0-7"},
		{"0-7", 4, "0-1,4-5"}, // a socket
		{"1-7", 4, "2-3,6-7"}, // the one that is whole
		{"0-7", 2, "0,4"},     // a core
		{"1-7", 2, "1,5"},     // a whole core, not the half one
		{"1-7", 1, "4"},       // the other half of a core that is in use
		{"0-7", 6, "0-2,4-6"}, // a socket and a core
		{"0-7", 3, "0-1,4"},   // a core and a thread
		{"0,3", 3, "too few"},
	} {
		got, err := machine().Take(set(t, c.free), c.count, Options{})
		text := got.String()
		if err != nil {
			text = "too few"
		}
		if text != c.want {
			t.Errorf("%d of %s: %s, want %s", c.count, c.free, text, c.want)
		}
	}
}

func TestReadTopology(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("online", "0,2")
	for id, core := range map[int]string{0: "0", 2: "5"} {
		write(fmt.Sprintf("cpu%d/topology/physical_package_id", id), "1")
		write(fmt.Sprintf("cpu%d/topology/core_id", id), core)
	}
	write("cpu0/cache/index3/id", "7")
	got, err := ReadTopology(dir, numa.Machine{{ID: 3, CPUs: cpuset.New(2)}})
	if err != nil || fmt.Sprint(got) != "[{0 1 0 0 7} {2 1 5 3 1}]" {
		t.Errorf("%v %v", got, err)
	}
	if got, err := ReadTopology("/sys/devices/system/cpu", nil); err != nil || len(got) == 0 {
		t.Errorf("this machine: %v %v", got, err)
	}
}

func container(name, cpu string) v1.Container {
	r := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse("1Mi")}
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Requests: r, Limits: r}}
}

func testPod(uid string, containers ...v1.Container) *v1.Pod {
	p := &v1.Pod{}
	p.UID, p.Spec.Containers = types.UID(uid), containers
	return p
}

func allocate(a *Allocator, p *v1.Pod) error {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if err := a.Allocate(p, &list[i], 0); err != nil {
				return err
			}
		}
	}
	return nil
}

func of(t *testing.T, a *Allocator, uid, container string) string {
	t.Helper()
	s, own, err := a.Of(types.UID(uid), container)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%s own=%v", s, own)
}

func TestAllocate(t *testing.T) {
	dir := t.TempDir()
	a := New(Config{PodsDir: dir, Topology: machine(), Reserved: cpuset.New(0)})
	p := testPod("p", container("whole", "2"), container("part", "500m"))
	always := v1.ContainerRestartPolicyAlways
	side := container("side", "1")
	side.RestartPolicy = &always
	p.Spec.InitContainers = []v1.Container{container("init", "3"), side}
	if err := allocate(a, p); err != nil {
		t.Fatal(err)
	}
	// Three for what runs together; the init container has them before.
	for name, want := range map[string]string{"init": "1,4-5 own=true", "side": "4 own=true", "whole": "1,5 own=true", "part": "0,2-3,6-7 own=false"} {
		if got := of(t, a, "p", name); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if got := of(t, a, "other", "c"); got != "0,2-3,6-7 own=false" {
		t.Errorf("what is shared: %s", got)
	}
	again := New(Config{PodsDir: dir, Topology: machine(), Reserved: cpuset.New(0)})
	if err := allocate(again, p); err != nil || of(t, again, "p", "whole") != "1,5 own=true" {
		t.Errorf("after a restart: %v, %s", err, of(t, again, "p", "whole"))
	}
	if err := allocate(a, testPod("big", container("c", "5"))); err == nil || !strings.Contains(err.Error(), "requested=5, available=4") {
		t.Error(err)
	}
	if err := allocate(a, testPod("fractions", container("c", "1500m"))); err != nil || of(t, a, "fractions", "c") != "0,2-3,6-7 own=false" {
		t.Error(err, of(t, a, "fractions", "c"))
	}
	burstable := testPod("burstable", container("c", "1"))
	burstable.Spec.Containers[0].Resources.Limits = nil
	if err := allocate(a, burstable); err != nil || of(t, a, "burstable", "c") != "0,2-3,6-7 own=false" {
		t.Error(err, of(t, a, "burstable", "c"))
	}
	if err := os.RemoveAll(filepath.Join(dir, "p")); err != nil {
		t.Fatal(err)
	}
	if err := a.Release("p"); err != nil {
		t.Fatal(err)
	}
	if got := of(t, a, "other", "c"); got != "0-7 own=false" {
		t.Errorf("after the pod has gone: %s", got)
	}
}

// TestFilesAreReadOnce: what is in a pod's directory later counts for the next kubelet only; until all could be read nothing is given.
func TestFilesAreReadOnce(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "torn", "cpus")
	write := func(text string) {
		if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	a := New(Config{PodsDir: dir, Topology: machine(), Reserved: cpuset.New(0)})
	for _, text := range []string{"", "{\"c\":\"1-\"}"} {
		write(text)
		if err := allocate(a, testPod("p", container("c", "1"))); err == nil || !strings.Contains(err.Error(), "deleting pod torn") {
			t.Errorf("%q: %v", text, err)
		}
		if _, _, err := a.Of("other", "c"); err == nil {
			t.Errorf("%q: what is shared is known", text)
		}
	}
	if err := a.Release("torn"); err != nil { // it was deleted
		t.Fatal(err)
	}
	if err := allocate(a, testPod("p", container("c", "1"))); err != nil {
		t.Fatal(err)
	}
	write("{\"c\":\"1-3\"}")
	if got := of(t, a, "other", "c"); got != "0-3,5-7 own=false" {
		t.Errorf("the files are read again: %s", got)
	}
	again := New(Config{PodsDir: dir, Topology: machine(), Reserved: cpuset.New(0)})
	if got := of(t, again, "other", "c"); got != "0,5-7 own=false" {
		t.Errorf("the next kubelet: %s", got)
	}
}

// fleet is a runtime with running containers and where they run.
type fleet struct{ at map[string]string }

func (f *fleet) ListContainers(context.Context, *cri.ListContainersRequest, ...grpc.CallOption) (*cri.ListContainersResponse, error) {
	resp := &cri.ListContainersResponse{}
	for id := range f.at {
		uid, name, _ := strings.Cut(id, "/")
		resp.Containers = append(resp.Containers, &cri.Container{Id: id, Labels: map[string]string{labelUID: uid, labelContainer: name}})
	}
	return resp, nil
}

func (f *fleet) UpdateContainerResources(_ context.Context, in *cri.UpdateContainerResourcesRequest, _ ...grpc.CallOption) (*cri.UpdateContainerResourcesResponse, error) {
	f.at[in.ContainerId] = in.Linux.CpusetCpus
	return &cri.UpdateContainerResourcesResponse{}, nil
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		a := New(Config{PodsDir: dir, Topology: machine(), Reserved: cpuset.New(0)})
		f := &fleet{at: map[string]string{"other/c": ""}}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error)
		go func() { done <- a.Run(ctx, f, 10*time.Second, slog.New(slog.DiscardHandler)) }()
		synctest.Wait()
		if f.at["other/c"] != "0-7" {
			t.Errorf("%v", f.at)
		}
		if err := allocate(a, testPod("p", container("c", "2"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // moved at once
		if f.at["other/c"] != "0,2-4,6-7" {
			t.Errorf("%v", f.at)
		}
		if err := a.Release("p"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // and back
		if f.at["other/c"] != "0-7" {
			t.Errorf("%v", f.at)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// grid is a machine with so many sockets, NUMA nodes in each, cores in each and threads of those; the first threads of all cores
// come first. Each NUMA node has two last level caches.
func grid(sockets, nodes, cores, threads int) Topology {
	var t Topology
	all := sockets * nodes * cores
	for id := range all * threads {
		core := id % all
		node := core / cores
		t = append(t, CPU{ID: id, Socket: node / nodes, Core: core % (nodes * cores), Node: node, Cache: 2*node + core%cores*2/cores})
	}
	return t
}

func TestOptions(t *testing.T) {
	for _, c := range []struct {
		name    string
		machine Topology
		free    string
		count   int
		options Options
		want    string
	}{
		{"a NUMA node before cores", grid(1, 2, 2, 2), "0-7", 4, Options{}, "0-1,4-5"},
		{"of two nodes the one with less free", grid(1, 2, 2, 2), "0-5,7", 2, Options{}, "3,7"},
		{"spread over nodes", grid(1, 2, 4, 1), "0-7", 6, Options{AcrossNUMA: true}, "0-2,4-6"},
		{"one node does", grid(1, 2, 4, 1), "0-7", 4, Options{AcrossNUMA: true}, "0-3"},
		{"spread, what is left over from where most is free", grid(1, 2, 4, 1), "1-7", 5, Options{AcrossNUMA: true}, "1-2,4-6"},
		{"spread whole cores", grid(1, 2, 3, 2), "0-11", 8, Options{AcrossNUMA: true, FullCores: true}, "0-1,3-4,6-7,9-10"},
		{"cannot be spread", grid(1, 2, 4, 1), "0,4-7", 5, Options{AcrossNUMA: true}, "0,4-7"},
		{"threads of different cores", grid(1, 1, 4, 2), "0-7", 2, Options{AcrossCores: true}, "0-1"},
		{"without the option threads of one", grid(1, 1, 4, 2), "0-7", 2, Options{}, "0,4"},
		{"a whole cache", grid(1, 1, 4, 2), "1-7", 4, Options{ByCache: true}, "2-3,6-7"},
		{"below one cache", grid(1, 1, 8, 1), "1-2,4-7", 3, Options{ByCache: true}, "4-6"},
		{"without the option wherever", grid(1, 1, 8, 1), "1-2,4-7", 3, Options{}, "1-2,4"},
		{"no cache has so many", grid(1, 1, 8, 1), "1-2,4-5", 3, Options{ByCache: true}, "1-2,4"},
	} {
		got, err := c.machine.Take(set(t, c.free), c.count, c.options)
		if err != nil || got.String() != c.want {
			t.Errorf("%s: %s %v, want %s", c.name, got, err, c.want)
		}
	}
	for _, c := range []struct{ options, want string }{
		{"full-pcpus-only=true distribute-cpus-across-numa=true", ""},
		{"full-pcpus-only=yes", `bad value for option "full-pcpus-only"`},
		{"fast=true", `unknown CPU Manager Policy option: "fast"`},
		{"full-pcpus-only=true distribute-cpus-across-cores=true", "static policy options full-pcpus-only and distribute-cpus-across-cores can not be used at the same time"},
		{"distribute-cpus-across-numa=true prefer-align-cpus-by-uncorecache=true", "can not be used at the same time"},
	} {
		given := map[string]string{}
		for _, o := range strings.Fields(c.options) {
			name, value, _ := strings.Cut(o, "=")
			given[name] = value
		}
		if _, err := ParseOptions(given); (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", c.options, err)
		}
	}
	if err := (Options{BySocket: true}).Check(grid(2, 2, 1, 1), numa.PolicySingle); err == nil {
		t.Error("by socket, but on one node")
	}
	if err := (Options{BySocket: true}).Check(Topology{{ID: 0}, {ID: 1, Socket: 1}}, numa.PolicyRestricted); err == nil {
		t.Error("by socket, with sockets within a node")
	}
}

func TestWholeCores(t *testing.T) {
	a := New(Config{PodsDir: t.TempDir(), Topology: grid(1, 1, 4, 2), Reserved: cpuset.New(0), Options: Options{FullCores: true, Strict: true}})
	for _, c := range []struct{ cpu, want string }{
		{"3", "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2"},
		{"8", "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = 6, requested CPUs = 8, CPUs per core = 2"},
	} {
		err := allocate(a, testPod("p"+c.cpu, container("c", c.cpu)))
		if r, ok := err.(interface{ AdmissionReason() string }); err == nil || err.Error() != c.want || !ok || r.AdmissionReason() != "SMTAlignmentError" {
			t.Error(err)
		}
	}
	if err := allocate(a, testPod("p", container("c", "4"))); err != nil || of(t, a, "p", "c") != "1-2,5-6 own=true" {
		t.Error(err, of(t, a, "p", "c"))
	}
	if got := of(t, a, "other", "c"); got != "3-4,7 own=false" { // strict: not the reserved one
		t.Error(got)
	}
}

func TestNear(t *testing.T) {
	a := New(Config{PodsDir: t.TempDir(), Topology: grid(2, 2, 2, 1), Reserved: cpuset.New(0)})
	give := func(uid, cpu string, near numa.Mask, want string) {
		t.Helper()
		p := testPod(uid, container("c", cpu))
		if err := a.Allocate(p, &p.Spec.Containers[0], near); err != nil || of(t, a, uid, "c") != want+" own=true" {
			t.Errorf("%v %s, want %s", err, of(t, a, uid, "c"), want)
		}
	}
	give("one", "2", numa.Of(3), "6-7")
	give("two", "3", numa.Of(1), "1-3") // the node's two, and then the rest
	a.cfg.Options.BySocket = true
	give("socket", "1", numa.Of(3), "4") // of the same socket as node 3
	p := testPod("late", container("c", "1"))
	if got := fmt.Sprint(a.Hints(p, &p.Spec.Containers[0])); got != "map[cpu:[{2 true} {0,2 false} {1-2 false} {2-3 true} {0-2 false} {0,2-3 false} {1-3 false} {0-3 false}]]" {
		t.Error(got)
	}
	if got := a.Hints(testPod("half", container("c", "500m")), nil); got != nil {
		t.Errorf("nothing for itself: %v", got)
	}
}

func TestPodHints(t *testing.T) {
	a := New(Config{PodsDir: t.TempDir(), Topology: grid(2, 1, 4, 1), Reserved: cpuset.New(0)})
	always := v1.ContainerRestartPolicyAlways
	side := container("side", "1")
	side.RestartPolicy = &always
	p := testPod("p", container("c", "1"), container("d", "1"))
	p.Spec.InitContainers = []v1.Container{side, container("init", "3")} // runs beside the sidecar
	if together(p) != 4 {
		t.Errorf("%d together", together(p))
	}
	if got := fmt.Sprint(a.Hints(p, nil)); got != "map[cpu:[{1 true} {0-1 false}]]" {
		t.Error(got)
	}
	if err := a.Allocate(p, &p.Spec.InitContainers[0], numa.Of(1)); err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(a.Hints(p, nil), a.Hints(p, &p.Spec.InitContainers[0])); got != "map[cpu:[{1 true} {0-1 false}]] map[cpu:[{1 true} {0-1 false}]]" {
		t.Error(got)
	}
	p.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("4")}}
	if together(p) != 0 {
		t.Error("resources of the pod as a whole")
	}
}
