// Package memory gives containers memory and huge pages of certain NUMA nodes (memoryManagerPolicy: Static, KEP-1769).
//
// Each container of a Guaranteed pod is bound to the smallest set of nodes that has what it asks for. A node serves either
// containers that are on it alone, or those of one set of several nodes, never both: so what is promised to a container can
// always be had.
//
//	pod admitted ─► Allocate: file "memory" in the pod's directory ─► containers start with their nodes (cpuset.mems)
//	pod's directory removed ─► its memory is free again
//
// The files are all the memory there is: what is free is computed from them.
package memory

import (
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
	"github.com/skiff-node/skiff/kubelet/podfile"
)

// Config of a Manager. All fields but Given are required.
type Config struct {
	// PodsDir holds the pods' directories.
	PodsDir string
	Machine numa.Machine
	// Reserved is what pods get nothing of, by node; see Reserved.
	Reserved map[int]Amounts
	// Given is told when a container was to be given memory, and whether that failed. Optional.
	Given func(err error)
}

// Manager gives out memory.
type Manager struct {
	cfg   Config
	files podfile.Kind[file]
	mu    sync.Mutex
}

// New makes a manager.
func New(cfg Config) *Manager {
	return &Manager{cfg: cfg, files: podfile.Kind[file]{PodsDir: cfg.PodsDir, Name: "memory", Says: "which memory the pod has", Early: true, Lasting: true}}
}

// block is so much of one kind of memory on a set of nodes.
type block struct {
	Nodes numa.Mask       `json:"nodes"`
	Kind  v1.ResourceName `json:"kind"`
	Bytes uint64          `json:"bytes"`
}

// file is what a pod's file holds: blocks by container name.
type file map[string][]block

// read reads the pod's file. One that does not exist is empty.
func (m *Manager) read(uid types.UID) (file, error) {
	f, ok, err := m.files.Load(uid)
	if !ok {
		f = file{}
	}
	return f, err
}

// state is what is free on each node: that of the machine without what pods have.
func (m *Manager) state() (state, error) {
	s := newState(m.cfg.Machine, m.cfg.Reserved)
	all, err := m.files.All()
	for _, uid := range slices.Sorted(maps.Keys(all)) {
		for _, name := range slices.Sorted(maps.Keys(all[uid])) {
			for _, b := range all[uid][name] {
				s.take(b)
			}
		}
	}
	return s, err
}

// Allocate gives the container its memory, if it has not got it: on those NUMA nodes, and more if they have too little; with none
// given, on as few as have it. Init containers have to be given theirs before the others, which use it again.
func (m *Manager) Allocate(p *v1.Pod, c *v1.Container, near numa.Mask) error {
	want := wants(p, c)
	if len(want) == 0 {
		return nil
	}
	err := m.give(p, c, want, near)
	if m.cfg.Given != nil {
		m.cfg.Given(err)
	}
	return err
}

func (m *Manager) give(p *v1.Pod, c *v1.Container, want Amounts, near numa.Mask) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.read(p.UID)
	if err != nil || f[c.Name] != nil {
		return err
	}
	s, err := m.state()
	if err != nil {
		return err
	}
	again := f.reusable(p, c.Name)
	nodes, err := s.place(want, again, near)
	if err != nil {
		return err
	}
	for _, kind := range slices.Sorted(maps.Keys(want)) {
		f.use(p, c.Name, block{nodes, kind, want[kind]})
	}
	return m.files.Save(p.UID, f)
}

// Release takes back the pod's memory.
func (m *Manager) Release(uid types.UID) error { return m.files.Remove(uid) }

// Of is the set of nodes that a container has its memory from; empty for all.
func (m *Manager) Of(uid types.UID, container string) (numa.Mask, error) {
	f, err := m.read(uid)
	var nodes numa.Mask
	for _, b := range f[container] {
		nodes |= b.Nodes
	}
	return nodes, err
}

// Hints tells where the container, or with nil the whole pod, could have its memory. What cannot be read is as good as not to be
// had; Allocate tells why.
func (m *Manager) Hints(p *v1.Pod, c *v1.Container) numa.Hints {
	want := together(p)
	if c != nil {
		want = wants(p, c)
	}
	if len(want) == 0 {
		return nil
	}
	f, err := m.read(p.UID)
	if err == nil {
		if has := f.of(p, c); has != nil {
			return again(has, want)
		}
	}
	s, serr := m.state()
	if err != nil || serr != nil {
		return impossible(want)
	}
	reuse := map[numa.Mask]Amounts{}
	if c != nil {
		reuse = f.reusable(p, c.Name)
	}
	out := impossible(want)
	for _, h := range s.hints(want, reuse) {
		for kind := range want {
			out[string(kind)] = append(out[string(kind)], h)
		}
	}
	return out
}

func impossible(want Amounts) numa.Hints {
	out := numa.Hints{}
	for kind := range want {
		out[string(kind)] = []numa.Hint{}
	}
	return out
}

// again are the hints of what has been given already.
func again(has []block, want Amounts) numa.Hints {
	out := impossible(want)
	for _, b := range has {
		if _, ok := want[b.Kind]; ok {
			out[string(b.Kind)] = []numa.Hint{{Nodes: b.Nodes, Preferred: true}}
		}
	}
	return out
}

// Container tells which memory a container has.
func (m *Manager) Container(p *v1.Pod, container string, out *podresources.ContainerResources) {
	f, err := m.read(p.UID)
	if err != nil {
		return
	}
	for _, b := range f[container] {
		out.Memory = append(out.Memory, shown(b))
	}
}

// Allocatable tells how much of each node's memory may be given.
func (m *Manager) Allocatable(out *podresources.AllocatableResourcesResponse) {
	s := newState(m.cfg.Machine, m.cfg.Reserved)
	for _, id := range m.cfg.Machine.IDs() {
		for _, kind := range slices.Sorted(maps.Keys(s[id].allocatable)) {
			if bytes := s[id].allocatable[kind]; bytes > 0 {
				out.Memory = append(out.Memory, shown(block{numa.Of(id), kind, bytes}))
			}
		}
	}
}

func shown(b block) *podresources.ContainerMemory {
	out := &podresources.ContainerMemory{MemoryType: string(b.Kind), Size: b.Bytes, Topology: &podresources.TopologyInfo{}}
	for _, n := range b.Nodes.Nodes() {
		out.Topology.Nodes = append(out.Topology.Nodes, &podresources.NUMANode{ID: int64(n)})
	}
	return out
}
