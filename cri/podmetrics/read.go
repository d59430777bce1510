package podmetrics

import (
	"strconv"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
)

// The ways to read a metric: of any cgroup, of containers only, per device, per interface.

func always(v uint64, labels ...string) []sample { return []sample{{v, labels}} }

// of reads a number of any cgroup; unknown ones are left out.
func of(get func(detail) metric, labels ...string) func(subject) []sample {
	return func(s subject) []sample {
		if m := get(s.detail); m.Known {
			return always(m.Value, labels...)
		}
		return nil
	}
}

// seconds reads a number of nanoseconds as whole seconds.
func seconds(get func(detail) metric, labels ...string) func(subject) []sample {
	return of(func(d detail) metric {
		m := get(d)
		m.Value /= uint64(time.Second)
		return m
	}, labels...)
}

// pressure reads a total of stall, which is in microseconds, as whole seconds.
func pressure(get func(runtimeservice.Usage) *runtimeservice.PSI, line func(*runtimeservice.PSI) runtimeservice.PSILine) func(subject) []sample {
	return func(s subject) []sample {
		if p := get(s.detail.Usage); p != nil {
			return always(line(p).Total / uint64(time.Second/time.Microsecond))
		}
		return nil
	}
}

func cpuPressure(u runtimeservice.Usage) *runtimeservice.PSI    { return u.CPU.PSI }
func memoryPressure(u runtimeservice.Usage) *runtimeservice.PSI { return u.Memory.PSI }
func ioPressure(u runtimeservice.Usage) *runtimeservice.PSI     { return u.IOPSI }
func some(p *runtimeservice.PSI) runtimeservice.PSILine         { return p.Some }
func full(p *runtimeservice.PSI) runtimeservice.PSILine         { return p.Full }

// container reads what only containers have.
func container(get func(c *unit) []sample) func(subject) []sample {
	return func(s subject) []sample {
		if s.container == nil {
			return nil
		}
		return get(s.container)
	}
}

// limit reads what the container's configuration says; without a limit it is what cAdvisor shows then: 0.
func limit(get func(r resources) int64) func(subject) []sample {
	return container(func(c *unit) []sample {
		return always(uint64(max(get(c.Container.Config.Resources), 0)))
	})
}

// given reads what the configuration says where it says something.
func given(get func(r resources) int64) func(subject) []sample {
	return container(func(c *unit) []sample {
		if v := get(c.Container.Config.Resources); v > 0 {
			return always(uint64(v))
		}
		return nil
	})
}

// space reads of the file system of the writable layer.
func space(get func(c *unit) uint64) func(subject) []sample {
	return container(func(c *unit) []sample {
		return always(get(c), c.Space.Device)
	})
}

func perDisk(get func(d disk) uint64) func(subject) []sample {
	return func(s subject) []sample {
		var out []sample
		for _, d := range s.detail.Disks {
			out = append(out, sample{get(d), []string{d.Device}})
		}
		return out
	}
}

func blkio(s subject) []sample {
	var out []sample
	for _, d := range s.detail.Disks {
		major, minor := strconv.FormatUint(d.Major, 10), strconv.FormatUint(d.Minor, 10)
		out = append(out,
			sample{d.ReadBytes, []string{d.Device, major, minor, "Read"}},
			sample{d.WrittenBytes, []string{d.Device, major, minor, "Write"}})
	}
	return out
}

func perSize(get func(h hugepages) metric) func(subject) []sample {
	return func(s subject) []sample {
		var out []sample
		for _, h := range s.detail.Hugepages {
			if m := get(h); m.Known {
				out = append(out, sample{m.Value, []string{h.PageSize}})
			}
		}
		return out
	}
}

func perInterface(get func(n link) uint64) func(subject) []sample {
	return func(s subject) []sample {
		var out []sample
		for _, n := range s.interfaces {
			out = append(out, sample{get(n), []string{n.Name}})
		}
		return out
	}
}

// failures reads page faults of the cgroup itself, and of all below it.
func failures(s subject) []sample {
	m := s.detail.Memory
	var out []sample
	for _, f := range []struct {
		kind, scope string
		count       metric
	}{
		{"pgfault", "container", m.Faults}, {"pgmajfault", "container", m.MajorFaults},
		{"pgfault", "hierarchy", m.AllFaults}, {"pgmajfault", "hierarchy", m.AllMajorFaults},
	} {
		if f.count.Known {
			out = append(out, sample{f.count.Value, []string{f.kind, f.scope}})
		}
	}
	return out
}
