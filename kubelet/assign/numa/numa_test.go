package numa

import (
	"fmt"
	"math/rand"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"k8s.io/utils/cpuset"
)

// four nodes in two pairs: 0 is near 1, 2 is near 3.
func four() Machine {
	var m Machine
	for id, d := range [][]uint64{{10, 11, 20, 20}, {11, 10, 20, 20}, {20, 20, 10, 12}, {20, 20, 12, 10}} {
		m = append(m, Node{ID: id, Distances: d, CPUs: cpuset.New(2*id, 2*id+1)})
	}
	return m
}

// hints reads "0! 1! 01": nodes, and ! for preferred; "any!" and "any" stand for anywhere.
func hints(text string) []Hint {
	list := []Hint{}
	for _, word := range strings.Fields(text) {
		digits, preferred := strings.CutSuffix(word, "!")
		h := Hint{Preferred: preferred}
		if digits != "any" {
			for _, d := range digits {
				h.Nodes |= Of(int(d - '0'))
			}
		}
		list = append(list, h)
	}
	return list
}

func show(h Hint, ok bool) string {
	s := h.Nodes.String()
	if h.Preferred {
		s += "!"
	}
	if !ok {
		s += " refused"
	}
	return s
}

func TestMerge(t *testing.T) {
	two, quad := four()[:2], four()
	for _, c := range []struct {
		name                     string
		machine                  Machine
		lists                    []string
		bestEffort, strict, lone string
		closest                  bool
	}{
		{"nobody cares", two, nil, "0-1!", "0-1!", "!", false},
		{"does not matter where", two, []string{"any!"}, "0-1!", "0-1!", "!", false},
		{"cannot be had", two, []string{"any"}, "0-1", "0-1 refused", " refused", false},
		{"one node", two, []string{"0! 1! 01"}, "0!", "0!", "0!", false},
		{"the other node only", two, []string{"0! 1! 01", "1! 01"}, "1!", "1!", "1!", false},
		{"no common node", two, []string{"0! 01", "1! 01"}, "0", "0 refused", " refused", false},
		{"needs both", two, []string{"01!"}, "0-1!", "0-1!", " refused", false},
		{"both for one, one for the other", two, []string{"01!", "0! 1!"}, "0", "0 refused", " refused", false},
		{"both is all that is free of what would fit one", two, []string{"01"}, "0-1", "0-1 refused", " refused", false},
		{"preferred before narrow", quad, []string{"0 12!"}, "1-2!", "1-2!", " refused", false},
		{"narrow before wide", quad, []string{"012! 3!"}, "3!", "3!", "3!", false},
		{"not preferred: as wide as the most demanding needs", quad, []string{"01 12 012", "0 1 012"}, "0-1", "0-1 refused", " refused", false},
		{"not preferred: rather too small than too large", quad, []string{"0 012", "12! 23! 012"}, "1-2", "1-2 refused", " refused", false},
		{"three resources", quad, []string{"0! 1! 2! 3!", "1! 2!", "2! 3!"}, "2!", "2!", "2!", false},
		{"lowest numbers of two far apart", quad, []string{"02! 12! 23!"}, "0,2!", "0,2!", " refused", false},
		{"nearest two", quad, []string{"02! 12! 23!"}, "2-3!", "2-3!", " refused", true},
		{"as near: lowest", quad, []string{"02! 12! 13!"}, "0,2!", "0,2!", " refused", true},
		{"nearness does not count between sizes", quad, []string{"3! 01!"}, "3!", "3!", "3!", true},
	} {
		for policy, want := range map[string]string{PolicyBestEffort: c.bestEffort, PolicyRestricted: c.strict, PolicySingle: c.lone} {
			var lists [][]Hint
			for _, l := range c.lists {
				lists = append(lists, hints(l))
			}
			if got := show(Merger{c.machine, policy, c.closest}.Merge(lists)); got != want {
				t.Errorf("%s, %s: %s, want %s", c.name, policy, got, want)
			}
		}
	}
}

func TestCollect(t *testing.T) {
	got := fmt.Sprint(Collect(nil, Hints{"gpu": nil}, Hints{"nic": {}}, Hints{"cpu": {{Of(1), true}}}))
	if got != "[[{ true}] [{ true}] [{ false}] [{1 true}]]" {
		t.Error(got)
	}
}

// TestMergeTriesAll compares with trying each combination one after the other, in any order.
func TestMergeTriesAll(t *testing.T) {
	random := rand.New(rand.NewSource(7))
	for range 3000 {
		m := Merger{four(), []string{PolicyBestEffort, PolicyRestricted, PolicySingle}[random.Intn(3)], random.Intn(2) == 0}
		var lists [][]Hint
		for range random.Intn(4) {
			list := []Hint{}
			for range 1 + random.Intn(4) {
				list = append(list, Hint{Mask(random.Intn(16)), random.Intn(2) == 0})
			}
			lists = append(lists, list)
		}
		got, ok := m.Merge(lists)
		want := slow(m, lists)
		if got != want || ok != (want.Preferred || m.Policy == PolicyBestEffort) {
			t.Fatalf("%s %v: %v, want %v", m.Policy, lists, got, want)
		}
	}
}

func slow(m Merger, lists [][]Hint) Hint {
	if m.Policy == PolicySingle {
		lists = single(lists)
	}
	best, found, all, ideal := Hint{}, false, m.Machine.All(), widest(lists)
	var try func(i int, chosen []Hint)
	try = func(i int, chosen []Hint) {
		if i < len(lists) {
			for _, h := range lists[i] {
				try(i+1, append(chosen, h))
			}
			return
		}
		h, first := Hint{all, true}, Mask(0)
		for _, c := range chosen {
			h.Preferred = h.Preferred && c.Preferred
			if c.Nodes == 0 {
				continue
			}
			if first == 0 {
				first = c.Nodes
			}
			h.Preferred = h.Preferred && c.Nodes == first
			h.Nodes &= c.Nodes
		}
		if h.Nodes != 0 && (!found || m.better(h, best, ideal)) {
			best, found = h, true
		}
	}
	try(0, nil)
	if !found {
		best = Hint{all, false}
	}
	if m.Policy == PolicySingle && best.Nodes == all {
		best.Nodes = 0
	}
	return best
}

func TestSubsets(t *testing.T) {
	var got []string
	Subsets([]int{0, 2, 5}, func(m Mask) { got = append(got, m.String()) })
	if s := fmt.Sprint(got); s != "[0 2 5 0,2 0,5 2,5 0,2,5]" {
		t.Error(s)
	}
}

// record writes a tree as /sys/devices/system/node of a machine with two nodes.
func record(t *testing.T) string {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"online":         "0-1",
		"node0/cpulist":  "0-3,8-11",
		"node0/distance": "10 21",
		"node0/meminfo":  "Node 0 MemTotal:       16384 kB\nNode 0 MemFree:        1000 kB",
		"node0/hugepages/hugepages-2048kB/nr_hugepages":    "2",
		"node0/hugepages/hugepages-1048576kB/nr_hugepages": "0",
		"node1/cpulist":  "4-7,12-15",
		"node1/distance": "21 10",
		"node1/meminfo":  "Node 1 MemTotal:       8192 kB",
	} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRead(t *testing.T) {
	m, err := Read(record(t), Node{})
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(m); got != "[{0 0-3,8-11 16777216 map[2097152:2 1073741824:0] [10 21]} {1 4-7,12-15 8388608 map[] [21 10]}]" {
		t.Error(got)
	}
	if m.CPUs(Of(1)).String() != "4-7,12-15" || m.distance(Of(0, 1)) != 15.5 {
		t.Errorf("%v %v", m.CPUs(Of(1)), m.distance(Of(0, 1)))
	}
	if m, err = Read(t.TempDir(), Node{CPUs: cpuset.New(0)}); err != nil || len(m) != 1 {
		t.Errorf("without NUMA: %v %v", m, err)
	}
	if m, err = Read("/sys/devices/system/node", Node{}); err != nil || len(m) == 0 {
		t.Errorf("this machine: %v %v", m, err)
	}
}
