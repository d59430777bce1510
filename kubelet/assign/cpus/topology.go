package cpus

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// CPU is one logical processor.
type CPU struct {
	ID int
	// Socket and Core it belongs to; a core's number counts within its socket.
	Socket, Core int
	// Node is its NUMA node.
	Node int
	// Cache is the last level cache that it shares with others; the socket's number where the kernel does not tell.
	Cache int
}

// Topology of the machine.
type Topology []CPU

// ReadTopology reads the processors that are online below dir, which is /sys/devices/system/cpu, on a machine with these NUMA
// nodes.
func ReadTopology(dir string, machine numa.Machine) (Topology, error) {
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
		c := CPU{ID: id, Socket: socket, Core: core, Cache: socket}
		if cache, err := number(filepath.Join(dir, fmt.Sprintf("cpu%d", id), "cache", "index3", "id")); err == nil {
			c.Cache = cache
		}
		for _, n := range machine {
			if n.CPUs.Contains(id) {
				c.Node = n.ID
			}
		}
		t = append(t, c)
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

// where selects the processors for which is holds.
func (t Topology) where(is func(CPU) bool) cpuset.CPUSet {
	var ids []int
	for _, c := range t {
		if is(c) {
			ids = append(ids, c.ID)
		}
	}
	return cpuset.New(ids...)
}

// inNodes are the processors of a set of NUMA nodes.
func (t Topology) inNodes(m numa.Mask) cpuset.CPUSet {
	return t.where(func(c CPU) bool { return m.Has(c.Node) })
}

// level is what processors belong together by.
type level func(CPU) [2]int

func byNode(c CPU) [2]int   { return [2]int{c.Node} }
func bySocket(c CPU) [2]int { return [2]int{c.Socket} }
func byCache(c CPU) [2]int  { return [2]int{c.Cache} }
func byCore(c CPU) [2]int   { return [2]int{c.Socket, c.Core} }

// count of the groups of a level.
func (t Topology) count(by level) int {
	seen := map[[2]int]bool{}
	for _, c := range t {
		seen[by(c)] = true
	}
	return len(seen)
}

// perCore is how many threads a core has.
func (t Topology) perCore() int { return len(t) / max(t.count(byCore), 1) }

// cores are all processors of the cores that these are of.
func (t Topology) cores(of cpuset.CPUSet) cpuset.CPUSet {
	used := map[[2]int]bool{}
	for _, c := range t {
		if of.Contains(c.ID) {
			used[byCore(c)] = true
		}
	}
	return t.where(func(c CPU) bool { return used[byCore(c)] })
}

// levels from the largest groups to the smallest. As many sockets as NUMA nodes, or more, lie within nodes; else nodes lie within
// sockets.
func (t Topology) levels() []level {
	if t.count(bySocket) >= t.count(byNode) {
		return []level{byNode, bySocket, byCore}
	}
	return []level{bySocket, byNode, byCore}
}

// aboveCores are the levels by which threads are taken without regard to cores: by sockets.
func (t Topology) aboveCores() []level {
	if t.count(bySocket) >= t.count(byNode) {
		return []level{byNode, bySocket}
	}
	return []level{bySocket}
}

// group is processors that belong together, and those of them that are free.
type group struct{ all, free cpuset.CPUSet }

// groups are those of the last of the levels that have something free. They come in the order in which they are taken: within a
// larger one together, and those with the least free first.
func (t Topology) groups(free cpuset.CPUSet, levels ...level) []group {
	by, rest := levels[0], levels[1:]
	members := map[[2]int][]int{}
	for _, c := range t {
		members[by(c)] = append(members[by(c)], c.ID)
	}
	var list []group
	for _, ids := range members {
		all := cpuset.New(ids...)
		if g := (group{all, all.Intersection(free)}); g.free.Size() > 0 {
			list = append(list, g)
		}
	}
	slices.SortFunc(list, func(a, b group) int {
		return cmp.Or(a.free.Size()-b.free.Size(), a.all.List()[0]-b.all.List()[0])
	})
	if len(rest) == 0 {
		return list
	}
	var out []group
	for _, g := range list {
		inside := slices.DeleteFunc(slices.Clone(t), func(c CPU) bool { return !g.all.Contains(c.ID) })
		out = append(out, inside.groups(free, rest...)...)
	}
	return out
}
