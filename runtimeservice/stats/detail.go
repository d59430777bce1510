package stats

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
)

// Machine is where details are read: the cgroups, and what /proc and /sys say beside them.
type Machine struct {
	Cgroups   cgroup.Root
	Proc, Sys string // "/proc" and "/sys"
}

// Detail measures a cgroup in full. One without files, because nothing has run in it, has used nothing.
func (m Machine) Detail(path string, now time.Time) (runtimeservice.Detail, error) {
	usage, err := Read(m.Cgroups, path, now)
	d := runtimeservice.Detail{Usage: usage}
	if errors.Is(err, fs.ErrNotExist) {
		return d, nil
	}
	r := &reader{err: err}
	if m.Cgroups.V2 {
		r.detailV2(m.Cgroups.Controller("", path), &d)
	} else {
		r.detailV1(m.Cgroups, path, &d)
	}
	for i, disk := range d.Disks {
		d.Disks[i].Device = m.device(disk.Major, disk.Minor)
	}
	pids, err := m.Cgroups.Processes(path)
	if err != nil {
		return d, err
	}
	m.processes(pids, &d.Processes)
	return d, r.err
}

// tick is the unit of cpuacct.stat, USER_HZ, which is 100 on every architecture Linux runs containers on.
const tick = uint64(time.Second / 100)

func (r *reader) detailV1(root cgroup.Root, path string, d *runtimeservice.Detail) {
	times := r.table(filepath.Join(root.Controller("cpuacct", path), "cpuacct.stat"))
	d.CPU.User, d.CPU.System = scaled(times, "user", tick), scaled(times, "system", tick)
	r.throttling(filepath.Join(root.Controller("cpu", path), "cpu.stat"), "throttled_time", 1, &d.CPU)

	dir := root.Controller("memory", path)
	table := r.table(filepath.Join(dir, "memory.stat"))
	d.Memory = runtimeservice.MemoryDetail{
		Cache: field(table, "total_cache"), Swap: field(table, "total_swap"), MappedFile: field(table, "total_mapped_file"),
		ActiveFile: field(table, "total_active_file"), InactiveFile: field(table, "total_inactive_file"),
		Kernel: r.number(filepath.Join(dir, "memory.kmem.usage_in_bytes")),
		Peak:   r.number(filepath.Join(dir, "memory.max_usage_in_bytes")), LimitHits: r.number(filepath.Join(dir, "memory.failcnt")),
		OOMKills: field(r.table(filepath.Join(dir, "memory.oom_control")), "oom_kill"),
		Faults:   field(table, "pgfault"), MajorFaults: field(table, "pgmajfault"),
		AllFaults: field(table, "total_pgfault"), AllMajorFaults: field(table, "total_pgmajfault"),
	}
	blkio := root.Controller("blkio", path)
	disks := disks{}
	disks.v1(r.text(filepath.Join(blkio, "blkio.throttle.io_service_bytes_recursive")), func(u *runtimeservice.DiskUsage) (*uint64, *uint64) {
		return &u.ReadBytes, &u.WrittenBytes
	})
	disks.v1(r.text(filepath.Join(blkio, "blkio.throttle.io_serviced_recursive")), func(u *runtimeservice.DiskUsage) (*uint64, *uint64) {
		return &u.Reads, &u.Writes
	})
	d.Disks = disks.list()
	d.Hugepages = r.hugepages(root.Controller("hugetlb", path), ".usage_in_bytes", ".max_usage_in_bytes")
	r.pids(root.Controller("pids", path), &d.Processes)
}

func (r *reader) detailV2(dir string, d *runtimeservice.Detail) {
	times := r.table(filepath.Join(dir, "cpu.stat"))
	d.CPU.User, d.CPU.System = scaled(times, "user_usec", 1000), scaled(times, "system_usec", 1000)
	r.throttling(filepath.Join(dir, "cpu.stat"), "throttled_usec", 1000, &d.CPU)

	table, events := r.table(filepath.Join(dir, "memory.stat")), r.table(filepath.Join(dir, "memory.events"))
	d.Memory = runtimeservice.MemoryDetail{
		Cache: field(table, "file"), Swap: r.number(filepath.Join(dir, "memory.swap.current")), MappedFile: field(table, "file_mapped"),
		ActiveFile: field(table, "active_file"), InactiveFile: field(table, "inactive_file"),
		Kernel: field(table, "kernel"), // since Linux 5.18
		Peak:   r.number(filepath.Join(dir, "memory.peak")), LimitHits: field(events, "max"), OOMKills: field(events, "oom_kill"),
		// v2 counts with all that is below; a container's cgroup seldom has anything there.
		Faults: field(table, "pgfault"), MajorFaults: field(table, "pgmajfault"),
		AllFaults: field(table, "pgfault"), AllMajorFaults: field(table, "pgmajfault"),
	}
	disks := disks{}
	disks.v2(r.text(filepath.Join(dir, "io.stat")))
	d.Disks = disks.list()
	d.Hugepages = r.hugepages(dir, ".current", "")
	r.pids(dir, &d.Processes)
}

// throttling reads cpu.stat, whose names differ between v1 and v2 only in the unit of time.
func (r *reader) throttling(path, throttled string, unit uint64, c *runtimeservice.CPUDetail) {
	table := r.table(path)
	c.Periods, c.ThrottledPeriods = field(table, "nr_periods"), field(table, "nr_throttled")
	c.ThrottledTime = scaled(table, throttled, unit)
}

func scaled(table map[string]uint64, name string, unit uint64) runtimeservice.Metric {
	m := field(table, name)
	m.Value *= unit
	return m
}

func (r *reader) text(path string) string {
	text, _ := r.file(path)
	return text
}

func (r *reader) pids(dir string, p *runtimeservice.ProcessDetail) {
	p.Threads = r.number(filepath.Join(dir, "pids.current"))
	p.ThreadsMax = r.number(filepath.Join(dir, "pids.max"))
}

// hugepages reads the files hugetlb.<size><usage>; those of reservations, "hugetlb.2MB.rsvd.…", are left out.
func (r *reader) hugepages(dir, usage, peak string) []runtimeservice.HugepageUsage {
	paths, _ := filepath.Glob(filepath.Join(dir, "hugetlb.*"+usage)) // the pattern is sound
	var out []runtimeservice.HugepageUsage
	for _, path := range paths {
		size := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "hugetlb."), usage)
		if strings.Contains(size, ".") {
			continue
		}
		h := runtimeservice.HugepageUsage{PageSize: size, Usage: r.number(path)}
		if peak != "" {
			h.Peak = r.number(filepath.Join(dir, "hugetlb."+size+peak))
		}
		out = append(out, h)
	}
	return out
}

// disks gathers what several files say of a device.
type disks map[[2]uint64]*runtimeservice.DiskUsage

func (d disks) at(device string) *runtimeservice.DiskUsage {
	major, minor, found := strings.Cut(device, ":")
	a, err1 := strconv.ParseUint(major, 10, 64)
	b, err2 := strconv.ParseUint(minor, 10, 64)
	if !found || err1 != nil || err2 != nil {
		return nil
	}
	if d[[2]uint64{a, b}] == nil {
		d[[2]uint64{a, b}] = &runtimeservice.DiskUsage{Major: a, Minor: b}
	}
	return d[[2]uint64{a, b}]
}

// v1 reads lines of "8:0 Read 4096"; there is also Sync, Async, Discard, Total.
func (d disks) v1(text string, counters func(*runtimeservice.DiskUsage) (read, written *uint64)) {
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue // "Total 4096", of all devices
		}
		usage := d.at(f[0])
		value, err := strconv.ParseUint(f[2], 10, 64)
		if usage == nil || err != nil {
			continue
		}
		read, written := counters(usage)
		switch f[1] {
		case "Read":
			*read = value
		case "Write":
			*written = value
		}
	}
}

// v2 reads lines of "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
func (d disks) v2(text string) {
	for line := range strings.Lines(text) {
		device, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		usage := d.at(device)
		if usage == nil {
			continue
		}
		into := map[string]*uint64{"rbytes": &usage.ReadBytes, "wbytes": &usage.WrittenBytes, "rios": &usage.Reads, "wios": &usage.Writes}
		for part := range strings.FieldsSeq(rest) {
			name, text, _ := strings.Cut(part, "=")
			value, err := strconv.ParseUint(text, 10, 64)
			if counter := into[name]; counter != nil && err == nil {
				*counter = value
			}
		}
	}
}

func (d disks) list() []runtimeservice.DiskUsage {
	var out []runtimeservice.DiskUsage
	for _, usage := range d {
		out = append(out, *usage)
	}
	slices.SortFunc(out, func(a, b runtimeservice.DiskUsage) int {
		return slices.Compare([]uint64{a.Major, a.Minor}, []uint64{b.Major, b.Minor})
	})
	return out
}

// device names a block device: /sys/dev/block/8:0 is a link to the directory that is called sda.
func (m Machine) device(major, minor uint64) string {
	link, err := os.Readlink(filepath.Join(m.Sys, "dev/block", strconv.FormatUint(major, 10)+":"+strconv.FormatUint(minor, 10)))
	if err != nil {
		return ""
	}
	return "/dev/" + filepath.Base(link)
}
