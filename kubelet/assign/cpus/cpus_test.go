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
		got, ok := machine().Take(set(t, c.free), c.count)
		text := got.String()
		if !ok {
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
	got, err := ReadTopology(dir)
	if err != nil || fmt.Sprint(got) != "[{0 1 0} {2 1 5}]" {
		t.Errorf("%v %v", got, err)
	}
	if got, err := ReadTopology("/sys/devices/system/cpu"); err != nil || len(got) == 0 {
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
	if err := a.Allocate(p); err != nil {
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
	if err := again.Allocate(p); err != nil || of(t, again, "p", "whole") != "1,5 own=true" {
		t.Errorf("after a restart: %v, %s", err, of(t, again, "p", "whole"))
	}
	if err := a.Allocate(testPod("big", container("c", "5"))); err == nil || !strings.Contains(err.Error(), "requested=5, available=4") {
		t.Error(err)
	}
	if err := a.Allocate(testPod("fractions", container("c", "1500m"))); err != nil || of(t, a, "fractions", "c") != "0,2-3,6-7 own=false" {
		t.Error(err, of(t, a, "fractions", "c"))
	}
	burstable := testPod("burstable", container("c", "1"))
	burstable.Spec.Containers[0].Resources.Limits = nil
	if err := a.Allocate(burstable); err != nil || of(t, a, "burstable", "c") != "0,2-3,6-7 own=false" {
		t.Error(err, of(t, a, "burstable", "c"))
	}
	if err := os.RemoveAll(filepath.Join(dir, "p")); err != nil {
		t.Fatal(err)
	}
	if got := of(t, a, "other", "c"); got != "0-7 own=false" {
		t.Errorf("after the pod has gone: %s", got)
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
		if err := a.Allocate(testPod("p", container("c", "2"))); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // moved at once
		if f.at["other/c"] != "0,2-4,6-7" {
			t.Errorf("%v", f.at)
		}
		if err := os.RemoveAll(filepath.Join(dir, "p")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if f.at["other/c"] != "0-7" {
			t.Errorf("%v", f.at)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
