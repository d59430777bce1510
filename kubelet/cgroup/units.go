package cgroup

import (
	"math"
	"path"
	"strings"

	"k8s.io/utils/cpuset"
)

// Units are systemd's units, by which it makes and bounds groups. Each call is done when it returns. systemd.Bus implements it.
type Units interface {
	// Ensure makes a slice that wants its parent, with these properties, or gives them to the one that exists.
	Ensure(unit, parent string, properties []Property) error
	// Set changes properties of a unit, until the machine goes down.
	Set(unit string, properties []Property) error
	// Stop ends a unit; one that does not exist is no error.
	Stop(unit string) error
}

// Property of a unit, by its name on the bus (org.freedesktop.systemd1); Value is a uint64, or a mask of processors as []byte.
type Property struct {
	Name  string
	Value any
}

// Properties are what systemd is to hold a slice to, so that it does not set back what is written to the files, when it is
// reloaded. Huge pages are not among them: it knows nothing of those.
func Properties(version Version, l Limits) []Property {
	var out []Property
	add := func(name string, value *int64) {
		if value != nil {
			out = append(out, Property{name, orInfinity(*value)})
		}
	}
	if version == V2 {
		if l.Shares != nil {
			out = append(out, Property{"CPUWeight", uint64(Weight(*l.Shares))})
		}
		add("MemoryMax", l.Memory)
		add("MemoryMin", l.Min)
		add("MemoryLow", l.Low)
		add("MemoryHigh", l.High)
		if mask := mask(l.CPUs); len(mask) > 0 {
			out = append(out, Property{"AllowedCPUs", mask})
		}
	} else {
		add("CPUShares", l.Shares)
		add("MemoryLimit", l.Memory)
	}
	if l.Quota != nil {
		perSecond := uint64(math.MaxUint64)
		if *l.Quota >= 0 {
			perSecond = uint64(*l.Quota * 1_000_000 / l.period())
		}
		out = append(out, Property{"CPUQuotaPeriodUSec", uint64(l.period())}, Property{"CPUQuotaPerSecUSec", perSecond})
	}
	add("TasksMax", l.Pids)
	return out
}

// mask has one bit for each processor of a list, the lowest first.
func mask(list string) []byte {
	var out []byte
	set, _ := cpuset.Parse(list) // the kernel wrote it
	for _, cpu := range set.List() {
		for len(out) <= cpu/8 {
			out = append(out, 0)
		}
		out[cpu/8] |= 1 << (cpu % 8)
	}
	return out
}

// orInfinity is systemd's way to write a limit.
func orInfinity(v int64) uint64 {
	if v < 0 {
		return math.MaxUint64
	}
	return uint64(v)
}

// hundredth is one percent of a processor, in microseconds per second.
const hundredth = 10_000

// whole rounds the quota up to whole percents of a processor, as systemd does, and OCI runtimes do with it: what is in a group
// may have no more than the group has.
func (l Limits) whole() Limits {
	if l.Quota == nil || *l.Quota < 0 {
		return l
	}
	percents := (*l.Quota*1_000_000/l.period() + hundredth - 1) / hundredth
	l.Quota = ptr(percents * hundredth * l.period() / 1_000_000)
	return l
}

// expand is where systemd puts the group of a slice: /a/b-c becomes /a.slice/a-b_c.slice. A dash in a name is a step down for
// systemd, so it becomes an underscore.
func expand(group string) string {
	out, name := "/", ""
	for _, step := range strings.Split(strings.Trim(group, "/"), "/") {
		if step == "" {
			continue
		}
		if name != "" {
			name += "-"
		}
		name += strings.ReplaceAll(step, "-", "_")
		out = path.Join(out, name+slice)
	}
	return out
}

// slice is how the names of such units end.
const slice = ".slice"

// parent is the slice in which the one of this path lies.
func parent(group string) string {
	if dir := path.Dir(group); dir != "/" {
		return path.Base(dir)
	}
	return "-" + slice
}
