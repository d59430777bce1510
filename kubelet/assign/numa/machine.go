package numa

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"
)

// Node is one NUMA node.
type Node struct {
	ID   int
	CPUs cpuset.CPUSet
	// Memory in bytes, huge pages included.
	Memory uint64
	// HugePages by their size in bytes: how many there are.
	HugePages map[uint64]uint64
	// Distances to all nodes of the machine, in their order; 10 to itself. Nil when they are not known.
	Distances []uint64
}

// Machine is its nodes, in ascending order.
type Machine []Node

// Read reads the nodes below dir, which is /sys/devices/system/node. A machine without NUMA has one node with all that is
// said of it.
func Read(dir string, whole Node) (Machine, error) {
	raw, err := os.ReadFile(filepath.Join(dir, "online"))
	if errors.Is(err, fs.ErrNotExist) {
		return Machine{whole}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which NUMA nodes are online: %w", err)
	}
	online, err := cpuset.Parse(strings.TrimSpace(string(raw)))
	if err != nil {
		return nil, fmt.Errorf("read which NUMA nodes are online: %w", err)
	}
	var m Machine
	for _, id := range online.List() {
		n, err := readNode(filepath.Join(dir, fmt.Sprintf("node%d", id)), id)
		if err != nil {
			return nil, fmt.Errorf("read NUMA node %d: %w", id, err)
		}
		if id > 63 {
			return nil, fmt.Errorf("NUMA node %d: nodes above 63 are not supported", id)
		}
		m = append(m, n)
	}
	return m, nil
}

func readNode(dir string, id int) (Node, error) {
	n := Node{ID: id, HugePages: map[uint64]uint64{}}
	raw, err := os.ReadFile(filepath.Join(dir, "cpulist"))
	if err != nil {
		return n, err
	}
	if n.CPUs, err = cpuset.Parse(strings.TrimSpace(string(raw))); err != nil {
		return n, err
	}
	if n.Memory, err = memTotal(filepath.Join(dir, "meminfo")); err != nil {
		return n, err
	}
	if raw, err := os.ReadFile(filepath.Join(dir, "distance")); err == nil {
		for _, field := range strings.Fields(string(raw)) {
			d, err := strconv.ParseUint(field, 10, 64)
			if err != nil {
				return n, fmt.Errorf("distance: %w", err)
			}
			n.Distances = append(n.Distances, d)
		}
	}
	pools, err := filepath.Glob(filepath.Join(dir, "hugepages", "hugepages-*kB", "nr_hugepages"))
	for _, pool := range pools {
		size, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(filepath.Dir(pool)), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			return n, fmt.Errorf("size of huge pages: %w", err)
		}
		raw, err := os.ReadFile(pool)
		if err != nil {
			return n, err
		}
		count, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			return n, fmt.Errorf("huge pages: %w", err)
		}
		n.HugePages[size<<10] = count
	}
	return n, err
}

// memTotal reads "Node 0 MemTotal:  1234 kB".
func memTotal(path string) (uint64, error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 4 && fields[2] == "MemTotal:" {
			kib, err := strconv.ParseUint(fields[3], 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.Join(errors.New("meminfo tells no MemTotal"), lines.Err())
}

// All nodes as a set.
func (m Machine) All() Mask { return Of(m.IDs()...) }

// IDs of the nodes.
func (m Machine) IDs() []int {
	var ids []int
	for _, n := range m {
		ids = append(ids, n.ID)
	}
	return ids
}

// CPUs of a set of nodes.
func (m Machine) CPUs(of Mask) cpuset.CPUSet {
	all := cpuset.New()
	for _, n := range m {
		if of.Has(n.ID) {
			all = all.Union(n.CPUs)
		}
	}
	return all
}

// distance is the average one between nodes of a set.
func (m Machine) distance(of Mask) float64 {
	sum, count := 0.0, 0
	for _, n := range m {
		if !of.Has(n.ID) {
			continue
		}
		for i, d := range n.Distances {
			if i < len(m) && of.Has(m[i].ID) {
				sum, count = sum+float64(d), count+1
			}
		}
	}
	if count == 0 {
		return 0
	}
	return sum / float64(count)
}
