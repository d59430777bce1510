// Package cpus gives containers processors of their own (cpuManagerPolicy: static).
//
// A container of a Guaranteed pod that asks for a whole number of CPUs gets as many for itself. All other containers share
// the rest, which includes what is reserved for the system: the reserved ones are never given away.
//
//	pod admitted ─► Allocate: file "cpus" in the pod's directory ─► containers start with their sets
//	                     └─► containers that share are moved off them       (Run)
//	pod is over or removed ─► Release: its processors are shared again       (Run)
//
// The files outlive the kubelet, and are read once, at its start: from then on memory says the same. What deletes a pod's directory
// has to call Release.
package cpus

import (
	"encoding/json"
	"maps"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/podfile"
)

// Config of an Allocator. All fields but Options and Given are required.
type Config struct {
	// PodsDir holds the pods' directories.
	PodsDir  string
	Topology Topology
	// Reserved is never given away.
	Reserved cpuset.CPUSet
	Options  Options
	// Given is told when a container was to be given processors, and whether that failed. Optional.
	Given func(err error)
}

// Allocator gives out processors.
type Allocator struct {
	cfg   Config
	files podfile.Kind[sets]
	wake  chan struct{} // what is shared has changed

	mu sync.Mutex
	// pods is what the files say: nil until all of them have been read, as long as one is damaged. taken is all of that.
	pods  map[types.UID]sets
	taken cpuset.CPUSet
}

// New makes an allocator.
func New(cfg Config) *Allocator {
	files := podfile.Kind[sets]{PodsDir: cfg.PodsDir, Name: "cpus", Says: "which CPUs the pod has", Early: true, Lasting: true}
	return &Allocator{cfg: cfg, files: files, wake: make(chan struct{}, 1)}
}

// sets are those of a pod's containers, by name.
type sets map[string]cpuset.CPUSet

// MarshalJSON writes each as 0-3,7.
func (s sets) MarshalJSON() ([]byte, error) {
	texts := map[string]string{}
	for name, set := range s {
		texts[name] = set.String()
	}
	return json.Marshal(texts)
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (s *sets) UnmarshalJSON(raw []byte) error {
	var texts map[string]string
	err := json.Unmarshal(raw, &texts)
	*s = sets{}
	for name, text := range texts {
		if err == nil {
			(*s)[name], err = cpuset.Parse(text)
		}
	}
	return err
}

// exclusive is how many processors the container gets for itself; 0 for none. Where resources are the pod's as a whole, its
// containers have none for themselves.
func exclusive(p *v1.Pod, c *v1.Container) int {
	if pod.QOS(p) != v1.PodQOSGuaranteed || resourcehelper.IsPodLevelResourcesSet(p) {
		return 0
	}
	q := c.Resources.Requests[v1.ResourceCPU]
	if limit, ok := c.Resources.Limits[v1.ResourceCPU]; ok && q.IsZero() {
		q = limit
	}
	if q.Value()*1000 != q.MilliValue() {
		return 0
	}
	return int(q.Value())
}

// together is how many processors the pod needs at the same time at most: init containers run one after the other, beside the
// sidecars that have started before.
func together(p *v1.Pod) int {
	beside, most := 0, 0
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if n := exclusive(p, c); pod.Sidecar(c) {
			beside += n
		} else {
			most = max(most, beside+n)
		}
	}
	for i := range p.Spec.Containers {
		beside += exclusive(p, &p.Spec.Containers[i])
	}
	return max(most, beside)
}

// Allocate gives the container its processors, if it has not got them: on those NUMA nodes first. Init containers have to be
// given theirs before the others, which use them again. It must not be called for two containers at a time.
func (a *Allocator) Allocate(p *v1.Pod, c *v1.Container, near numa.Mask) error {
	count := exclusive(p, c)
	if count == 0 {
		return nil
	}
	err := a.give(p, c, count, near)
	if a.cfg.Given != nil {
		a.cfg.Given(err)
	}
	return err
}

func (a *Allocator) give(p *v1.Pod, c *v1.Container, count int, near numa.Mask) error {
	has, taken, err := a.known(p.UID)
	if _, ok := has[c.Name]; ok || err != nil {
		return err
	}
	if err := a.wholeCores(count, taken); err != nil {
		return err
	}
	again := reusable(p, c.Name, has)
	free := a.Allocatable().Difference(taken).Union(again)
	if near != 0 {
		again = again.Intersection(a.near(near))
	}
	if again.Size() >= count { // nothing but what the pod has already
		free = again
	}
	set, err := a.pick(free, count, near)
	if err != nil {
		return err
	}
	has = maps.Clone(has)
	has[c.Name] = set
	if err := a.files.Save(p.UID, has); err != nil { // not under the mutex: containers start meanwhile
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods[p.UID] = has
	a.changed()
	return nil
}

// wholeCores refuses what cannot be had in whole cores, where only those are given. A core that has a reserved thread is not free.
func (a *Allocator) wholeCores(count int, taken cpuset.CPUSet) error {
	if !a.cfg.Options.FullCores {
		return nil
	}
	t := a.cfg.Topology
	if count%t.perCore() != 0 {
		return &SMTError{Requested: count, PerCore: t.perCore()}
	}
	if free := t.All().Difference(taken).Difference(t.cores(a.cfg.Reserved)).Size(); count > free {
		return &SMTError{Requested: count, PerCore: t.perCore(), Short: true, Available: free}
	}
	return nil
}

// near are the processors that count as close to a set of NUMA nodes.
func (a *Allocator) near(m numa.Mask) cpuset.CPUSet {
	t := a.cfg.Topology
	if !a.cfg.Options.BySocket {
		return t.inNodes(m)
	}
	sockets := map[int]bool{}
	for _, c := range t {
		if m.Has(c.Node) {
			sockets[c.Socket] = true
		}
	}
	return t.where(func(c CPU) bool { return sockets[c.Socket] })
}

// pick takes close ones first.
func (a *Allocator) pick(free cpuset.CPUSet, count int, near numa.Mask) (cpuset.CPUSet, error) {
	set, err := cpuset.New(), error(nil)
	if close := free.Intersection(a.near(near)); near != 0 {
		if set, err = a.cfg.Topology.Take(close, min(count, close.Size()), a.cfg.Options); err != nil {
			return set, err
		}
	}
	rest, err := a.cfg.Topology.Take(free.Difference(set), count-set.Size(), a.cfg.Options)
	return set.Union(rest), err
}

// reusable are the processors that the container may take over from init containers that have ended before it starts.
func reusable(p *v1.Pod, container string, has map[string]cpuset.CPUSet) cpuset.CPUSet {
	left := cpuset.New()
	pod.Inherit(p, container, func(name string) { left = left.Union(has[name]) }, func(name string) { left = left.Difference(has[name]) })
	return left
}

// Release takes back the pod's processors.
func (a *Allocator) Release(uid types.UID) error {
	if err := a.files.Remove(uid); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, had := a.pods[uid]; had {
		delete(a.pods, uid)
		a.changed()
	}
	return nil
}

// known is what the pod's containers have, which must not be changed, and what all pods have.
func (a *Allocator) known(uid types.UID) (has sets, taken cpuset.CPUSet, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pods == nil {
		if a.pods, err = a.files.All(); err != nil {
			return nil, taken, err
		}
		a.sum()
	}
	if has = a.pods[uid]; has == nil {
		has = sets{}
	}
	return has, a.taken, nil
}

// Of is the set of processors that a container runs on: its own, or those that are shared.
func (a *Allocator) Of(uid types.UID, container string) (set cpuset.CPUSet, own bool, err error) {
	has, taken, err := a.known(uid)
	if err != nil {
		return set, false, err
	}
	if set, own = has[container]; own {
		return set, true, nil
	}
	shared := a.cfg.Topology.All().Difference(taken)
	if a.cfg.Options.Strict {
		shared = shared.Difference(a.cfg.Reserved)
	}
	return shared, false, nil
}

// Allocatable are the processors that may be given away.
func (a *Allocator) Allocatable() cpuset.CPUSet {
	return a.cfg.Topology.All().Difference(a.cfg.Reserved)
}

// sum adds up what is taken. The mutex is held.
func (a *Allocator) sum() {
	a.taken = cpuset.New()
	for _, s := range a.pods {
		for _, set := range s {
			a.taken = a.taken.Union(set)
		}
	}
}

// changed is called when what pods have has changed. The mutex is held.
func (a *Allocator) changed() {
	a.sum()
	select {
	case a.wake <- struct{}{}:
	default:
	}
}
