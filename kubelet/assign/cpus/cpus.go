// Package cpus gives containers processors of their own (cpuManagerPolicy: static).
//
// A container of a Guaranteed pod that asks for a whole number of CPUs gets as many for itself. All other containers share
// the rest, which includes what is reserved for the system: the reserved ones are never given away.
//
//	pod admitted ─► Allocate: file "cpus" in the pod's directory ─► containers start with their sets
//	                     └─► containers that share are moved off them       (Run)
//	pod's directory removed ─► its processors are shared again              (Run)
//
// The files are all the memory there is: they outlive the kubelet, and go with the pod.
package cpus

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/whole"
)

// Config of an Allocator. All fields are required.
type Config struct {
	// PodsDir holds the pods' directories.
	PodsDir  string
	Topology Topology
	// Reserved is never given away.
	Reserved cpuset.CPUSet
}

// Allocator gives out processors.
type Allocator struct {
	cfg  Config
	wake chan struct{} // what is shared has changed

	mu sync.Mutex
}

// New makes an allocator.
func New(cfg Config) *Allocator { return &Allocator{cfg: cfg, wake: make(chan struct{}, 1)} }

// file is what a pod's file holds: sets by container name, as 0-3,7.
type file map[string]string

const fileName = "cpus"

func (a *Allocator) path(uid types.UID) string {
	return filepath.Join(a.cfg.PodsDir, string(uid), fileName)
}

// exclusive is how many processors the container gets for itself; 0 for none.
func exclusive(p *v1.Pod, c *v1.Container) int {
	if pod.QOS(p) != v1.PodQOSGuaranteed {
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

// Allocate gives the pod's containers their processors, if it has not been done. Init containers run before the others and
// use the same ones.
func (a *Allocator) Allocate(p *v1.Pod) error {
	together, alone := 0, 0 // of those that run at the same time, and of the largest init container
	for i := range p.Spec.Containers {
		together += exclusive(p, &p.Spec.Containers[i])
	}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if n := exclusive(p, c); pod.Sidecar(c) {
			together += n
		} else {
			alone = max(alone, n)
		}
	}
	if max(together, alone) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := os.Stat(a.path(p.UID)); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	taken, err := a.taken()
	if err != nil {
		return err
	}
	free := a.Allocatable().Difference(taken)
	set, ok := a.cfg.Topology.Take(free, max(together, alone))
	if !ok {
		return fmt.Errorf("not enough cpus available to satisfy request: requested=%d, available=%d", max(together, alone), free.Size())
	}
	if err := a.write(p.UID, a.share(p, set)); err != nil {
		return err
	}
	a.changed()
	return nil
}

// Release takes back the pod's processors.
func (a *Allocator) Release(uid types.UID) error {
	if err := os.Remove(a.path(uid)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take back the pod's CPUs: %w", err)
	}
	a.changed()
	return nil
}

// share divides the pod's processors among its containers.
func (a *Allocator) share(p *v1.Pod, set cpuset.CPUSet) file {
	f, left := file{}, set
	give := func(c *v1.Container, from cpuset.CPUSet) cpuset.CPUSet {
		n := exclusive(p, c)
		if n == 0 {
			return cpuset.New()
		}
		part, _ := a.cfg.Topology.Take(from, n)
		f[c.Name] = part.String()
		return part
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; pod.Sidecar(c) {
			left = left.Difference(give(c, left))
		} else {
			give(c, set)
		}
	}
	for i := range p.Spec.Containers {
		left = left.Difference(give(&p.Spec.Containers[i], left))
	}
	return f
}

func (a *Allocator) write(uid types.UID, f file) error {
	raw, err := json.Marshal(f)
	if err != nil {
		return err
	}
	path := a.path(uid)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("make pod directory: %w", err)
	}
	if err := whole.WriteFile(path, raw, 0o644); err != nil {
		return fmt.Errorf("write the pod's CPUs: %w", err)
	}
	return nil
}

func read(path string) (map[string]cpuset.CPUSet, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return nil, fmt.Errorf("file of a pod's CPUs %s: %w", path, err)
	}
	sets := map[string]cpuset.CPUSet{}
	for name, text := range f {
		if sets[name], err = cpuset.Parse(text); err != nil {
			return nil, fmt.Errorf("file of a pod's CPUs %s: %w", path, err)
		}
	}
	return sets, nil
}

// taken are the processors that pods have for themselves.
func (a *Allocator) taken() (cpuset.CPUSet, error) {
	paths, err := filepath.Glob(filepath.Join(a.cfg.PodsDir, "*", fileName))
	all := cpuset.New()
	for _, path := range paths {
		sets, err := read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return all, err
		}
		for _, set := range sets {
			all = all.Union(set)
		}
	}
	return all, err
}

// Of is the set of processors that a container runs on: its own, or those that are shared.
func (a *Allocator) Of(uid types.UID, container string) (set cpuset.CPUSet, own bool, err error) {
	sets, err := read(a.path(uid))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return set, false, err
	}
	if set, own = sets[container]; own {
		return set, true, nil
	}
	taken, err := a.taken()
	return a.cfg.Topology.All().Difference(taken), false, err
}

// Allocatable are the processors that may be given away.
func (a *Allocator) Allocatable() cpuset.CPUSet {
	return a.cfg.Topology.All().Difference(a.cfg.Reserved)
}

func (a *Allocator) changed() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}
