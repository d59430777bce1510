package stats

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
)

func machine(t *testing.T, archive string, v2 bool) Machine {
	t.Helper()
	root := tree(t, archive, v2)
	m := Machine{Cgroups: root, Proc: filepath.Join(root.Path, "proc"), Sys: filepath.Join(root.Path, "sys")}
	m.Cgroups.Path = filepath.Join(root.Path, "cgroup")
	block := filepath.Join(m.Sys, "dev/block")
	if err := os.MkdirAll(block, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../devices/pci0/virtio1/block/vda", filepath.Join(block, "254:0")); err != nil {
		t.Fatal(err)
	}
	fd := filepath.Join(m.Proc, "41/fd")
	if err := os.MkdirAll(fd, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"0": "/dev/null", "1": "pipe:[7]", "2": "socket:[9]"} {
		if err := os.Symlink(target, filepath.Join(fd, name)); err != nil {
			t.Fatal(err)
		}
	}
	return m
}

const limits = `Limit                     Soft Limit           Hard Limit           Units
Max file size             unlimited            unlimited            bytes
Max open files            1024                 524288               files
`

func TestDetailV1(t *testing.T) {
	m := machine(t, `
-- proc/41/limits --
`+limits+`
-- cgroup/cpuacct/c/cpuacct.usage --
3000000000
-- cgroup/cpuacct/c/cpuacct.stat --
user 150
system 25
-- cgroup/cpu/c/cpu.stat --
nr_periods 10
nr_throttled 4
throttled_time 5000000000
-- cgroup/memory/c/memory.usage_in_bytes --
1000
-- cgroup/memory/c/memory.max_usage_in_bytes --
2000
-- cgroup/memory/c/memory.failcnt --
6
-- cgroup/memory/c/memory.kmem.usage_in_bytes --
70
-- cgroup/memory/c/memory.oom_control --
oom_kill_disable 0
under_oom 0
oom_kill 3
-- cgroup/memory/c/memory.stat --
cache 1
pgfault 5
pgmajfault 1
total_cache 600
total_mapped_file 30
total_swap 8
total_pgfault 50
total_pgmajfault 10
total_inactive_file 100
total_active_file 20
-- cgroup/blkio/c/blkio.throttle.io_service_bytes_recursive --
254:0 Read 4096
254:0 Write 8192
254:0 Sync 8192
254:0 Total 12288
Total 12288
-- cgroup/blkio/c/blkio.throttle.io_serviced_recursive --
254:0 Read 1
254:0 Write 2
254:0 Total 3
Total 3
-- cgroup/hugetlb/c/hugetlb.2MB.usage_in_bytes --
2097152
-- cgroup/hugetlb/c/hugetlb.2MB.max_usage_in_bytes --
4194304
-- cgroup/hugetlb/c/hugetlb.2MB.rsvd.usage_in_bytes --
0
-- cgroup/pids/c/pids.current --
3
-- cgroup/pids/c/pids.max --
max
-- cgroup/pids/c/cgroup.procs --
41
42
`, false)
	d, err := m.Detail("/c", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	check(t, "CPU", d.CPU, runtimeservice.CPUDetail{
		User: is(15e8), System: is(25e7), Periods: is(10), ThrottledPeriods: is(4), ThrottledTime: is(5e9),
	})
	check(t, "memory", d.Memory, runtimeservice.MemoryDetail{
		Cache: is(600), Swap: is(8), Kernel: is(70), MappedFile: is(30), ActiveFile: is(20), InactiveFile: is(100), Peak: is(2000),
		LimitHits: is(6), OOMKills: is(3), Faults: is(5), MajorFaults: is(1), AllFaults: is(50), AllMajorFaults: is(10),
	})
	check(t, "disks", d.Disks, []runtimeservice.DiskUsage{{
		Device: "/dev/vda", Major: 254, ReadBytes: 4096, WrittenBytes: 8192, Reads: 1, Writes: 2,
	}})
	check(t, "huge pages", d.Hugepages, []runtimeservice.HugepageUsage{{PageSize: "2MB", Usage: is(2 << 20), Peak: is(4 << 20)}})
	check(t, "processes", d.Processes, runtimeservice.ProcessDetail{
		Processes: is(2), Threads: is(3), Descriptors: is(3), Sockets: is(1), OpenFilesMax: is(1024),
	})
	check(t, "usage", d.Usage.CPU.CoreNanoseconds, is(3e9))
}

func TestDetailV2(t *testing.T) {
	m := machine(t, `
-- proc/41/limits --
`+limits+`
-- cgroup/c/cpu.stat --
usage_usec 3000000
user_usec 2000000
system_usec 1000000
nr_periods 10
nr_throttled 4
throttled_usec 5000000
-- cgroup/c/cpu.pressure --
some avg10=0.00 avg60=0.00 avg300=0.00 total=7000000
full avg10=0.00 avg60=0.00 avg300=0.00 total=2000000
-- cgroup/c/memory.current --
1000
-- cgroup/c/memory.peak --
2000
-- cgroup/c/memory.swap.current --
8
-- cgroup/c/memory.events --
low 0
high 0
max 6
oom 4
oom_kill 3
-- cgroup/c/memory.stat --
anon 400
file 600
kernel 70
file_mapped 30
inactive_file 100
active_file 20
pgfault 50
pgmajfault 10
-- cgroup/c/io.stat --
254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0
7:0 
-- cgroup/c/hugetlb.1GB.current --
0
-- cgroup/c/hugetlb.1GB.rsvd.current --
0
-- cgroup/c/pids.current --
3
-- cgroup/c/pids.max --
100
-- cgroup/c/cgroup.procs --
41
`, true)
	d, err := m.Detail("/c", time.Unix(1, 0))
	if err != nil {
		t.Fatal(err)
	}
	check(t, "CPU", d.CPU, runtimeservice.CPUDetail{
		User: is(2e9), System: is(1e9), Periods: is(10), ThrottledPeriods: is(4), ThrottledTime: is(5e9),
	})
	check(t, "memory", d.Memory, runtimeservice.MemoryDetail{
		Cache: is(600), Swap: is(8), Kernel: is(70), MappedFile: is(30), ActiveFile: is(20), InactiveFile: is(100), Peak: is(2000),
		LimitHits: is(6), OOMKills: is(3), Faults: is(50), MajorFaults: is(10), AllFaults: is(50), AllMajorFaults: is(10),
	})
	check(t, "disks", d.Disks, []runtimeservice.DiskUsage{
		{Major: 7}, {Device: "/dev/vda", Major: 254, ReadBytes: 4096, WrittenBytes: 8192, Reads: 1, Writes: 2},
	})
	check(t, "huge pages", d.Hugepages, []runtimeservice.HugepageUsage{{PageSize: "1GB", Usage: is(0)}})
	check(t, "processes", d.Processes, runtimeservice.ProcessDetail{
		Processes: is(1), Threads: is(3), ThreadsMax: is(100), Descriptors: is(3), Sockets: is(1), OpenFilesMax: is(1024),
	})
	check(t, "pressure", d.Usage.CPU.PSI.Full.Total, uint64(2e6))
}

func check(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

func TestDetailOfNothing(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		if d, err := machine(t, "-- cgroup/memory/x --\n", v2).Detail("/gone", time.Unix(1, 0)); err != nil || d.Usage.Memory.Usage.Known {
			t.Errorf("v2=%v: %+v, %v", v2, d, err)
		}
	}
}

func TestSpace(t *testing.T) {
	m := Machine{Proc: "/proc", Sys: t.TempDir()}
	s, err := m.Space(t.TempDir())
	if err != nil || s.Bytes == 0 || s.Inodes < s.FreeInodes || s.Device == "" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := m.Space("/no/such/path"); err == nil {
		t.Error("a path that does not exist has a file system")
	}
}
