package groups

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/kubelet/cgroup"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestMeasure reads files as the kernel writes them.
func TestMeasure(t *testing.T) {
	root := t.TempDir()
	v1 := map[string]string{"cpuacct/g/cpuacct.usage": "5000000000\n", "memory/g/memory.usage_in_bytes": "1000\n", "memory/g/memory.limit_in_bytes": "9223372036854771712\n",
		"memory/g/memory.stat": "rss 1\ntotal_inactive_file 300\ntotal_rss 200\ntotal_pgfault 7\ntotal_pgmajfault 1\n"}
	v2 := map[string]string{"u/g/cpu.stat": "usage_usec 5000000\nuser_usec 1\n", "u/g/memory.current": "1000\n", "u/g/memory.max": "2000\n",
		"u/g/memory.stat": "anon 200\nfile 600\ninactive_file 300\npgfault 7\npgmajfault 1\n"}
	write(t, root, v1)
	write(t, root, v2)
	for name, layout := range map[string]cgroup.Layout{
		"v1": {Version: cgroup.V1, Trees: map[string]string{"cpuacct": filepath.Join(root, "cpuacct"), "memory": filepath.Join(root, "memory")}},
		"v2": {Version: cgroup.V2, Trees: map[string]string{"cpu": filepath.Join(root, "u"), "memory": filepath.Join(root, "u")}},
	} {
		m, now := New(layout), time.Unix(1000, 0)
		s, err := m.Measure("misc", "/g", now)
		if err != nil || s.Name != "misc" || *s.CPU.UsageCoreNanoSeconds != 5e9 || s.CPU.UsageNanoCores != nil || *s.Memory.UsageBytes != 1000 ||
			*s.Memory.WorkingSetBytes != 700 || *s.Memory.RSSBytes != 200 || *s.Memory.PageFaults != 7 || *s.Memory.MajorPageFaults != 1 {
			t.Errorf("%s: %+v %+v, %v", name, s.CPU, s.Memory, err)
		}
		if available := s.Memory.AvailableBytes; layout.Version == cgroup.V2 && (available == nil || *available != 1300) || layout.Version == cgroup.V1 && available != nil {
			t.Errorf("%s: available %v", name, available)
		}
		write(t, root, map[string]string{"cpuacct/g/cpuacct.usage": "6000000000\n", "u/g/cpu.stat": "usage_usec 6000000\n"})
		for range 2 { // asked again at once it is the same
			if s, _ = m.Measure("misc", "/g", now.Add(2*time.Second)); s.CPU.UsageNanoCores == nil || *s.CPU.UsageNanoCores != 5e8 {
				t.Errorf("%s: half a processor, but %v", name, s.CPU.UsageNanoCores)
			}
		}
		write(t, root, v1)
		write(t, root, v2)
		if _, err := m.Measure("misc", "/none", now); err == nil || !strings.Contains(err.Error(), `"/none"`) {
			t.Errorf("%s: a group that does not exist: %v", name, err)
		}
	}
}

func TestAll(t *testing.T) {
	root := t.TempDir()
	write(t, root, map[string]string{"g/memory.current": "1\n"})
	m := New(cgroup.Layout{Version: cgroup.V2, Trees: map[string]string{"cpu": root, "memory": root}})
	got := m.All([]Named{{"kubelet", ""}, {"runtime", "/none"}, {"pods", "/g"}}, time.Unix(1, 0))
	if len(got) != 1 || got[0].Name != "pods" || got[0].CPU != nil || *got[0].Memory.UsageBytes != 1 {
		t.Errorf("%+v", got)
	}
}
