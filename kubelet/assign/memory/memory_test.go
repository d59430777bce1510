package memory

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// machine has nodes of 10 Mi, the first with a huge page of 2 Mi among them. One Mi of each is reserved.
func testManager(t *testing.T, nodes int) *Manager {
	c := Config{PodsDir: t.TempDir(), Reserved: map[int]Amounts{}}
	for id := range nodes {
		c.Machine = append(c.Machine, numa.Node{ID: id, Memory: 10 << 20})
		c.Reserved[id] = Amounts{v1.ResourceMemory: 1 << 20}
	}
	c.Machine[0].HugePages = map[uint64]uint64{2 << 20: 1}
	return New(c)
}

// container asks for so many Mi.
func container(name string, mi int64, more ...string) v1.Container {
	r := v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: *resource.NewQuantity(mi<<20, resource.BinarySI)}
	for _, kind := range more {
		r[v1.ResourceName(kind)] = resource.MustParse("2Mi")
	}
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Requests: r, Limits: r}}
}

func testPod(uid string, containers ...v1.Container) *v1.Pod {
	p := &v1.Pod{}
	p.UID, p.Spec.Containers = types.UID(uid), containers
	return p
}

func allocate(m *Manager, p *v1.Pod, near numa.Mask) error {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if err := m.Allocate(p, &list[i], near); err != nil {
				return err
			}
		}
	}
	return nil
}

// holds tells what a container has: "0-1: memory 12Mi".
func holds(m *Manager, uid, container string) string {
	out := &podresources.ContainerResources{}
	m.Container(testPod(uid), container, out)
	var list []string
	for _, c := range out.Memory {
		var nodes numa.Mask
		for _, n := range c.Topology.Nodes {
			nodes |= numa.Of(int(n.ID))
		}
		list = append(list, fmt.Sprintf("%s: %s %dMi", nodes, c.MemoryType, c.Size>>20))
	}
	return strings.Join(list, ", ")
}

// TestAllocate is one history: pods come and go on a machine with three nodes.
func TestAllocate(t *testing.T) {
	m := testManager(t, 3)
	for _, step := range []struct {
		pod    string
		mi     int64
		near   numa.Mask
		remove string
		want   string // what it has, or why it has nothing
	}{
		{pod: "a", mi: 7, want: "0: memory 7Mi"}, // of 10 one is reserved, two are a huge page
		{pod: "b", mi: 5, want: "1: memory 5Mi"},
		{pod: "c", mi: 4, near: numa.Of(2), want: "2: memory 4Mi"},
		{pod: "d", mi: 10, want: "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"}, // all nodes serve containers that are alone on them
		{pod: "d", mi: 10, remove: "b c", want: "1-2: memory 10Mi"},
		{pod: "e", mi: 1, near: numa.Of(1), want: "1-2: memory 1Mi"}, // the first node of the group is full
		{pod: "f", mi: 10, remove: "d e", near: numa.Of(1), want: "1-2: memory 10Mi"},
		{pod: "g", mi: 1, near: numa.Of(0, 2), want: "[memorymanager] preferred hint violates NUMA node allocation"},
		{pod: "h", mi: 8, want: "1-2: memory 8Mi"}, // the group is used on
		{pod: "i", mi: 1, want: "[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available"},
		{pod: "j", mi: 3, near: numa.Of(0), want: "[memorymanager] failed to find NUMA nodes to extend the current topology hint"},
	} {
		for _, uid := range strings.Fields(step.remove) {
			if err := os.RemoveAll(filepath.Join(m.cfg.PodsDir, uid)); err != nil {
				t.Fatal(err)
			}
		}
		err := allocate(m, testPod(step.pod, container("c", step.mi)), step.near)
		got := holds(m, step.pod, "c")
		if err != nil {
			got += err.Error()
		}
		if got != step.want {
			t.Errorf("%s: %s, want %s", step.pod, got, step.want)
		}
	}
	if n, err := New(m.cfg).Of("f", "c"); err != nil || n != numa.Of(1, 2) {
		t.Errorf("after a restart: %s %v", n, err)
	}
	if n, err := m.Of("other", "c"); err != nil || n.String() != "" {
		t.Errorf("a container without memory of its own: %s %v", n, err)
	}
	if err := m.Release("f"); err != nil || holds(m, "f", "c") != "" {
		t.Error(err)
	}
}

func TestKinds(t *testing.T) {
	m := testManager(t, 2)
	if err := allocate(m, testPod("p", container("c", 1, "hugepages-2Mi")), 0); err != nil || holds(m, "p", "c") != "0: hugepages-2Mi 2Mi, 0: memory 1Mi" {
		t.Error(err, holds(m, "p", "c"))
	}
	if err := allocate(m, testPod("q", container("c", 1, "hugepages-2Mi")), 0); err == nil {
		t.Error("there was one page")
	}
	out := &podresources.AllocatableResourcesResponse{}
	m.Allocatable(out)
	var got []string
	for _, x := range out.Memory {
		got = append(got, fmt.Sprintf("%d:%s:%d", x.Topology.Nodes[0].ID, x.MemoryType, x.Size>>20))
	}
	if s := strings.Join(got, " "); s != "0:hugepages-2Mi:2 0:memory:7 1:memory:9" {
		t.Error(s)
	}
	burstable := testPod("b", container("c", 1))
	burstable.Spec.Containers[0].Resources.Limits = nil
	whole := testPod("w", container("c", 1))
	whole.Spec.Resources = &v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceMemory: resource.MustParse("1Mi")}}
	for _, p := range []*v1.Pod{burstable, whole} {
		if err := allocate(m, p, 0); err != nil || holds(m, string(p.UID), "c") != "" || m.Hints(p, nil) != nil {
			t.Error(err, holds(m, string(p.UID), "c"))
		}
	}
}

func TestInitContainers(t *testing.T) {
	m := testManager(t, 1)
	always := v1.ContainerRestartPolicyAlways
	side := container("side", 2)
	side.RestartPolicy = &always
	p := testPod("p", container("main", 3))
	p.Spec.InitContainers = []v1.Container{container("first", 4), side, container("second", 5)} // 7 together
	if got := together(p)[v1.ResourceMemory] >> 20; got != 7 {
		t.Errorf("%d together", got)
	}
	if err := allocate(m, p, 0); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, name := range []string{"first", "side", "second", "main"} {
		got = append(got, holds(m, "p", name))
	}
	// What the others do not use again stays noted with the init containers: it sums up to what the pod has.
	if s := strings.Join(got, "; "); s != "0: memory 0Mi; 0: memory 2Mi; 0: memory 2Mi; 0: memory 3Mi" {
		t.Error(s)
	}
	if err := allocate(m, testPod("late", container("c", 1)), 0); err == nil {
		t.Error("all was given")
	}
}

func TestHints(t *testing.T) {
	m := testManager(t, 2)
	show := func(p *v1.Pod, c *v1.Container) string { return fmt.Sprint(m.Hints(p, c)[string(v1.ResourceMemory)]) }
	p := testPod("p", container("c", 7), container("d", 7))
	if got := show(p, &p.Spec.Containers[0]) + show(p, nil); got != "[{0 true} {1 true} {0-1 false}][{0-1 true}]" {
		t.Error(got)
	}
	if err := m.Allocate(p, &p.Spec.Containers[0], numa.Of(1)); err != nil {
		t.Fatal(err)
	}
	if got := show(p, &p.Spec.Containers[0]) + show(p, &p.Spec.Containers[1]); got != "[{1 true}][{0 true}]" {
		t.Error(got)
	}
	if got := m.Hints(testPod("q", container("c", 20)), nil)[string(v1.ResourceMemory)]; got == nil || len(got) != 0 {
		t.Errorf("more than there is: %v", got)
	}
}

func TestReserved(t *testing.T) {
	two := numa.Machine{{ID: 0}, {ID: 1}}
	at := func(node int32, name, q string) kubeletconfig.MemoryReservation {
		return kubeletconfig.MemoryReservation{NumaNode: node, Limits: v1.ResourceList{v1.ResourceName(name): resource.MustParse(q)}}
	}
	kept := v1.ResourceList{v1.ResourceMemory: resource.MustParse("1124Mi"), v1.ResourceCPU: resource.MustParse("1")}
	for _, c := range []struct {
		list []kubeletconfig.MemoryReservation
		want string
	}{
		{[]kubeletconfig.MemoryReservation{at(0, "memory", "1Gi"), at(1, "memory", "100Mi")}, ""},
		{[]kubeletconfig.MemoryReservation{at(0, "memory", "1Gi")}, `the total amount "1Gi" of type "memory" is not equal to the value "1124Mi" determined by Node Allocatable feature`},
		{nil, `the total amount "0" of type "memory" is not equal to the value "1124Mi"`},
		{[]kubeletconfig.MemoryReservation{at(2, "memory", "1124Mi")}, "references a NUMA node 2 that does not exist on this machine"},
		{[]kubeletconfig.MemoryReservation{at(0, "cpu", "1")}, `the limit type "cpu" for NUMA node 0 is not supported`},
		{[]kubeletconfig.MemoryReservation{at(0, "memory", "0")}, "may not be zero"},
		{[]kubeletconfig.MemoryReservation{at(0, "memory", "562Mi"), at(0, "memory", "562Mi")}, "duplicate value"},
		{[]kubeletconfig.MemoryReservation{at(0, "memory", "1124Mi"), at(0, "hugepages-2Mi", "2Mi")}, `the total amount "2Mi" of type "hugepages-2Mi" is not equal to the value "0"`},
	} {
		got, err := Reserved(c.list, kept, two)
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %s", c.list, err, c.want)
		}
		if c.want == "" && got[0][v1.ResourceMemory] != 1<<30 {
			t.Errorf("%v", got)
		}
	}
}
