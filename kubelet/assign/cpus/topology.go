package cpus

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"
)

// CPU is one logical processor.
type CPU struct {
	ID int
	// Socket and Core it belongs to; a core's number counts within its socket.
	Socket, Core int
}

// Topology of the machine.
type Topology []CPU

// ReadTopology reads the processors that are online below dir, which is /sys/devices/system/cpu.
func ReadTopology(dir string) (Topology, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "online"))
	if err != nil {
		return nil, fmt.Errorf("read which CPUs are online: %w", err)
	}
	online, err := cpuset.Parse(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("read which CPUs are online: %w", err)
	}
	var t Topology
	for _, id := range online.List() {
		at := filepath.Join(dir, fmt.Sprintf("cpu%d", id), "topology")
		socket, err := number(filepath.Join(at, "physical_package_id"))
		if err != nil {
			return nil, err
		}
		core, err := number(filepath.Join(at, "core_id"))
		if err != nil {
			return nil, err
		}
		t = append(t, CPU{id, socket, core})
	}
	return t, nil
}

func number(path string) (int, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return 0, fmt.Errorf("read topology: %w", err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err != nil {
		return 0, fmt.Errorf("read topology: %s: %w", path, err)
	}
	return n, nil
}

// All processors.
func (t Topology) All() cpuset.CPUSet {
	var ids []int
	for _, c := range t {
		ids = append(ids, c.ID)
	}
	return cpuset.New(ids...)
}

// group is processors that belong together: a socket's or a core's.
type group struct{ all, free cpuset.CPUSet }

// groups sorts the processors by key, in the order of their lowest numbers.
func (t Topology) groups(free cpuset.CPUSet, key func(CPU) [2]int) []group {
	ids := map[[2]int][]int{}
	for _, c := range t {
		ids[key(c)] = append(ids[key(c)], c.ID)
	}
	var list []group
	for _, members := range ids {
		all := cpuset.New(members...)
		list = append(list, group{all, all.Intersection(free)})
	}
	slices.SortFunc(list, func(a, b group) int { return a.all.List()[0] - b.all.List()[0] })
	return list
}

// Take chooses count of the free processors, as upstream does: whole sockets while they fit, then whole cores, then single
// threads, of cores that are in use already where there are any. ok is false when there are too few.
func (t Topology) Take(free cpuset.CPUSet, count int) (taken cpuset.CPUSet, ok bool) {
	taken = cpuset.New()
	if free.Size() < count {
		return taken, false
	}
	whole := func(key func(CPU) [2]int) {
		for _, g := range t.groups(free.Difference(taken), key) {
			if n := g.all.Size(); g.free.Size() == n && taken.Size()+n <= count {
				taken = taken.Union(g.all)
			}
		}
	}
	whole(func(c CPU) [2]int { return [2]int{c.Socket} })
	core := func(c CPU) [2]int { return [2]int{c.Socket, c.Core} }
	whole(core)
	rest := t.groups(free.Difference(taken), core)
	slices.SortStableFunc(rest, func(a, b group) int { return a.free.Size() - b.free.Size() })
	for _, g := range rest {
		for _, id := range g.free.List() {
			if taken.Size() < count {
				taken = taken.Union(cpuset.New(id))
			}
		}
	}
	return taken, true
}
