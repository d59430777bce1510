// Package groups measures control groups of the machine for the summary API (node.systemContainers): those of the kubelet, the
// container runtime, the rest of the system, and all pods together. It reads the kernel's files when it is asked, of both versions.
package groups

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-node/skiff/kubelet/cgroup"
)

// Meter measures groups. It is safe for concurrent use.
type Meter struct {
	layout cgroup.Layout

	mu   sync.Mutex
	last map[string]sample // by group, for rates
}

type sample struct {
	at   time.Time
	used uint64 // nanoseconds
	rate uint64 // nanoseconds per second
}

// New returns a meter for the groups of that layout.
func New(layout cgroup.Layout) *Meter { return &Meter{layout: layout, last: map[string]sample{}} }

// Layout is where the groups are.
func (m *Meter) Layout() cgroup.Layout { return m.layout }

// Measure measures a group, a path below the mounts of control groups. The rate of its processors' use is over the time since the
// last question, so the first answer has none.
func (m *Meter) Measure(name, group string, now time.Time) (v1alpha1.ContainerStats, error) {
	dir := m.dir("memory", group)
	info, err := os.Stat(dir)
	if err != nil {
		return v1alpha1.ContainerStats{}, fmt.Errorf("measure cgroup %q: %w", group, err)
	}
	at := metav1.NewTime(now)
	s := v1alpha1.ContainerStats{Name: name, StartTime: metav1.NewTime(info.ModTime()), Memory: m.memory(dir, at)}
	if used, ok := m.cpu(group); ok {
		s.CPU = &v1alpha1.CPUStats{Time: at, UsageCoreNanoSeconds: &used, UsageNanoCores: m.rate(group, now, used)}
	}
	return s, nil
}

func (m *Meter) dir(controller, group string) string {
	return filepath.Join(m.layout.Trees[controller], group)
}

// cpu is the processor time that the group has used, in nanoseconds.
func (m *Meter) cpu(group string) (uint64, bool) {
	if m.layout.Version == cgroup.V1 {
		return number(filepath.Join(m.dir("cpuacct", group), "cpuacct.usage"))
	}
	used, ok := table(filepath.Join(m.dir("cpu", group), "cpu.stat"))["usage_usec"]
	return used * 1000, ok
}

// rate is the use of processors since the last question. Questions in quick succession get the same answer.
func (m *Meter) rate(group string, now time.Time, used uint64) *uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	last, asked := m.last[group]
	if !asked {
		m.last[group] = sample{at: now, used: used}
		return nil
	}
	if since := now.Sub(last.at); since >= time.Second && used >= last.used {
		last = sample{at: now, used: used, rate: uint64(float64(used-last.used) / since.Seconds())}
		m.last[group] = last
	}
	return &last.rate
}

// names of the files and lines of a version.
type names struct{ usage, limit, inactive, rss, faults, majorFaults string }

func (m *Meter) names() names {
	if m.layout.Version == cgroup.V1 {
		return names{"memory.usage_in_bytes", "memory.limit_in_bytes", "total_inactive_file", "total_rss", "total_pgfault", "total_pgmajfault"}
	}
	return names{"memory.current", "memory.max", "inactive_file", "anon", "pgfault", "pgmajfault"}
}

// noLimit is from where on a number in version 1 stands for none.
const noLimit = 1 << 62

// memory takes the working set for what is used less the file pages that nobody used lately. nil for the root of version 2, which
// has no such files.
func (m *Meter) memory(dir string, at metav1.Time) *v1alpha1.MemoryStats {
	n := m.names()
	usage, ok := number(filepath.Join(dir, n.usage))
	if !ok {
		return nil
	}
	lines := table(filepath.Join(dir, "memory.stat"))
	working := usage - min(lines[n.inactive], usage)
	rss, faults, major := lines[n.rss], lines[n.faults], lines[n.majorFaults]
	s := &v1alpha1.MemoryStats{Time: at, UsageBytes: &usage, WorkingSetBytes: &working, RSSBytes: &rss, PageFaults: &faults, MajorPageFaults: &major}
	if limit, limited := number(filepath.Join(dir, n.limit)); limited && limit < noLimit {
		available := limit - min(working, limit)
		s.AvailableBytes = &available
	}
	return s
}

// number reads a file with one number.
func number(path string) (uint64, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	return n, err == nil
}

// table reads lines of "key value".
func table(path string) map[string]uint64 {
	data, _ := os.ReadFile(path)
	out := map[string]uint64{}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[key] = n
		}
	}
	return out
}

// Named is a group under the name that the summary API has for it (v1alpha1.SystemContainerKubelet, ...).
type Named struct{ Name, Group string }

// All measures groups; one that has no group, or whose group is not there, is left out.
func (m *Meter) All(list []Named, now time.Time) []v1alpha1.ContainerStats {
	var out []v1alpha1.ContainerStats
	for _, n := range list {
		if n.Group == "" {
			continue
		}
		if s, err := m.Measure(n.Name, n.Group, now); err == nil {
			out = append(out, s)
		}
	}
	return out
}
