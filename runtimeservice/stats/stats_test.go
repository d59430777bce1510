package stats

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
)

// tree unpacks recorded cgroup files.
func tree(t *testing.T, archive string, v2 bool) cgroup.Root {
	t.Helper()
	dir := t.TempDir()
	for _, f := range txtar.Parse([]byte(archive)).Files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, f.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return cgroup.Root{Path: dir, V2: v2}
}

func is(v uint64) runtimeservice.Metric { return runtimeservice.Metric{Value: v, Known: true} }

func TestV1(t *testing.T) {
	root := tree(t, `
-- cpuacct/pod/c/cpuacct.usage --
123456789
-- memory/pod/c/memory.usage_in_bytes --
1000
-- memory/pod/c/memory.limit_in_bytes --
5000
-- memory/pod/c/memory.memsw.usage_in_bytes --
1300
-- memory/pod/c/memory.memsw.limit_in_bytes --
7000
-- memory/pod/c/memory.stat --
cache 600
total_rss 400
total_pgfault 7
total_pgmajfault 2
total_inactive_file 100
-- pids/pod/c/pids.current --
3
`, false)
	u, err := Read(root, "/pod/c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := u.Memory
	if u.CPU.CoreNanoseconds != is(123456789) || m.WorkingSet != is(900) || m.Available != is(4100) || m.RSS != is(400) ||
		m.PageFaults != is(7) || m.MajorPageFaults != is(2) || u.Swap.Usage != is(300) || u.Swap.Available != is(1700) || u.Processes != is(3) || u.CPU.PSI != nil {
		t.Errorf("%+v", u)
	}
}

func TestV1Unlimited(t *testing.T) {
	root := tree(t, "-- memory/c/memory.usage_in_bytes --\n1\n-- memory/c/memory.limit_in_bytes --\n9223372036854771712\n", false)
	if u, err := Read(root, "/c", time.Now()); err != nil || u.Memory.Available.Known || u.CPU.CoreNanoseconds.Known {
		t.Errorf("%+v, %v", u, err)
	}
}

func TestV2(t *testing.T) {
	root := tree(t, `
-- pod/c/cpu.stat --
usage_usec 5000
user_usec 4000
-- pod/c/cpu.pressure --
some avg10=1.50 avg60=0.20 avg300=0.03 total=77
full avg10=0.00 avg60=0.00 avg300=0.00 total=5
-- pod/c/memory.current --
1000
-- pod/c/memory.max --
max
-- pod/c/memory.swap.current --
10
-- pod/c/memory.swap.max --
30
-- pod/c/memory.stat --
anon 400
inactive_file 2000
pgfault 9
pgmajfault 1
-- pod/c/pids.current --
2
`, true)
	u, err := Read(root, "/pod/c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	m := u.Memory
	if u.CPU.CoreNanoseconds != is(5000000) || m.WorkingSet != is(0) || m.Available.Known || m.RSS != is(400) || m.PageFaults != is(9) ||
		u.Swap.Usage != is(10) || u.Swap.Available != is(20) || u.Processes != is(2) {
		t.Errorf("%+v", u)
	}
	if p := u.CPU.PSI; p == nil || p.Some.Avg10 != 1.5 || p.Some.Total != 77 || p.Full.Total != 5 || m.PSI != nil {
		t.Errorf("pressure: %+v", p)
	}
}

func TestGone(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		s := Sampler{Root: tree(t, "-- memory/x --\n", v2)}
		if u, err := s.Measure("/gone"); err != nil || u.Memory.Usage.Known {
			t.Errorf("v2=%v: %+v, %v", v2, u, err)
		}
	}
}

func TestNanoCores(t *testing.T) {
	at := time.Unix(100, 0)
	sample := func(after time.Duration, used uint64) runtimeservice.Usage {
		return runtimeservice.Usage{At: at.Add(after), CPU: runtimeservice.CPUUsage{CoreNanoseconds: is(used)}}
	}
	for _, tc := range []struct {
		a, b runtimeservice.Usage
		want runtimeservice.Metric
	}{
		{sample(0, 0), sample(2*time.Second, 1e9), is(5e8)},
		{sample(0, 5), sample(0, 9), runtimeservice.Metric{}},
		{sample(0, 9), sample(time.Second, 5), runtimeservice.Metric{}}, // the cgroup was made anew
	} {
		if got := NanoCores(tc.a, tc.b); got != tc.want {
			t.Errorf("%v", got)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	got := parseNetwork(`Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     1       1    0    0    0     0          0         0        1       1    0    0    0     0       0          0
  eth0:  1234      10    2    4    0     0          0         0     5678      20    3    1    0     0       0          0
`)
	want := runtimeservice.InterfaceUsage{Name: "eth0", RxBytes: 1234, RxPackets: 10, RxErrors: 2, RxDropped: 4, TxBytes: 5678, TxPackets: 20, TxErrors: 3, TxDropped: 1}
	if len(got) != 1 || got[0] != want {
		t.Errorf("%+v", got)
	}
}
