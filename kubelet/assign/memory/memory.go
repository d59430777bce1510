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
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
	"github.com/skiff-node/skiff/kubelet/whole"
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
	cfg Config
	mu  sync.Mutex
}

// New makes a manager.
func New(cfg Config) *Manager { return &Manager{cfg: cfg} }

// block is so much of one kind of memory on a set of nodes.
type block struct {
	Nodes numa.Mask       `json:"nodes"`
	Kind  v1.ResourceName `json:"kind"`
	Bytes uint64          `json:"bytes"`
}

// file is what a pod's file holds: blocks by container name.
type file map[string][]block

const fileName = "memory"

func (m *Manager) path(uid types.UID) string {
	return filepath.Join(m.cfg.PodsDir, string(uid), fileName)
}

// read reads a file. One that does not exist is empty.
func read(path string) (file, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, nil
	}
	if err != nil {
		return nil, err
	}
	f := file{}
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("file of a pod's memory %s: %w", path, err)
	}
	return f, nil
}

// state is what is free on each node: that of the machine without what pods have.
func (m *Manager) state() (state, error) {
	s := newState(m.cfg.Machine, m.cfg.Reserved)
	paths, err := filepath.Glob(filepath.Join(m.cfg.PodsDir, "*", fileName))
	for _, path := range paths {
		f, err := read(path)
		if err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(f)) {
			for _, b := range f[name] {
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
	f, err := read(m.path(p.UID))
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
	return m.write(p.UID, f)
}

func (m *Manager) write(uid types.UID, f file) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	path := m.path(uid)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := whole.WriteLasting(path, raw, 0o644); err != nil {
		return fmt.Errorf("write the pod's memory: %w", err)
	}
	return nil
}

// Release takes back the pod's memory.
func (m *Manager) Release(uid types.UID) error {
	if err := os.Remove(m.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take back the pod's memory: %w", err)
	}
	return nil
}

// Of is the set of nodes that a container has its memory from; empty for all.
func (m *Manager) Of(uid types.UID, container string) (numa.Mask, error) {
	f, err := read(m.path(uid))
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
	f, err := read(m.path(p.UID))
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
	f, err := read(m.path(p.UID))
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
