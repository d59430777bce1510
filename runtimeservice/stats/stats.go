// Package stats reads what cgroups have used, from their files, under v1 and v2.
package stats

import (
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"
)

// Read measures a cgroup. A file that does not exist leaves its number unknown; a cgroup without any is an error.
func Read(root cgroup.Root, path string, now time.Time) (runtimeservice.Usage, error) {
	r := reader{}
	u := runtimeservice.Usage{At: now}
	if root.V2 {
		r.v2(root.Controller("", path), &u)
	} else {
		r.v1(root, path, &u)
	}
	if r.err == nil && r.read == 0 {
		r.err = fs.ErrNotExist
	}
	return u, r.err
}

// NanoCores is the rate between two samples, in billionths of a core. It is unknown when they are not in order.
func NanoCores(before, now runtimeservice.Usage) runtimeservice.Metric {
	elapsed := now.At.Sub(before.At)
	a, b := before.CPU.CoreNanoseconds, now.CPU.CoreNanoseconds
	if elapsed <= 0 || !a.Known || !b.Known || b.Value < a.Value {
		return runtimeservice.Metric{}
	}
	return known(uint64(float64(b.Value-a.Value) / elapsed.Seconds()))
}

func known(v uint64) runtimeservice.Metric { return runtimeservice.Metric{Value: v, Known: true} }

// reader keeps the first real error and counts the files found.
type reader struct {
	err  error
	read int
}

func (r *reader) v1(root cgroup.Root, path string, u *runtimeservice.Usage) {
	memory := root.Controller("memory", path)
	u.CPU.CoreNanoseconds = r.number(filepath.Join(root.Controller("cpuacct", path), "cpuacct.usage"))
	usage := r.number(filepath.Join(memory, "memory.usage_in_bytes"))
	limit := r.number(filepath.Join(memory, "memory.limit_in_bytes"))
	table := r.table(filepath.Join(memory, "memory.stat"))
	if limit.Known && limit.Value > unlimitedV1 {
		limit.Known = false
	}
	memoryUsage(u, usage, limit, field(table, "total_inactive_file"))
	u.Memory.RSS = field(table, "total_rss")
	u.Memory.PageFaults = field(table, "total_pgfault")
	u.Memory.MajorPageFaults = field(table, "total_pgmajfault")
	if both := r.number(filepath.Join(memory, "memory.memsw.usage_in_bytes")); both.Known && usage.Known {
		u.Swap.Usage = known(minus(both.Value, usage.Value))
	}
	if most := r.number(filepath.Join(memory, "memory.memsw.limit_in_bytes")); most.Known && most.Value <= unlimitedV1 && limit.Known && u.Swap.Usage.Known {
		u.Swap.Available = known(minus(minus(most.Value, limit.Value), u.Swap.Usage.Value))
	}
	u.Processes = r.number(filepath.Join(root.Controller("pids", path), "pids.current"))
}

// unlimitedV1 is below what an unlimited v1 cgroup shows, the largest page-aligned int64.
const unlimitedV1 = math.MaxInt64 / 2

func (r *reader) v2(dir string, u *runtimeservice.Usage) {
	cpu := r.table(filepath.Join(dir, "cpu.stat"))
	if usec, ok := cpu["usage_usec"]; ok {
		u.CPU.CoreNanoseconds = known(usec * 1000)
	}
	table := r.table(filepath.Join(dir, "memory.stat"))
	memoryUsage(u, r.number(filepath.Join(dir, "memory.current")), r.number(filepath.Join(dir, "memory.max")),
		field(table, "inactive_file"))
	u.Memory.RSS = field(table, "anon")
	u.Memory.PageFaults = field(table, "pgfault")
	u.Memory.MajorPageFaults = field(table, "pgmajfault")
	u.Swap.Usage = r.number(filepath.Join(dir, "memory.swap.current"))
	if most := r.number(filepath.Join(dir, "memory.swap.max")); most.Known && u.Swap.Usage.Known {
		u.Swap.Available = known(minus(most.Value, u.Swap.Usage.Value))
	}
	u.Processes = r.number(filepath.Join(dir, "pids.current"))
	u.CPU.PSI = r.pressure(filepath.Join(dir, "cpu.pressure"))
	u.Memory.PSI = r.pressure(filepath.Join(dir, "memory.pressure"))
	u.IOPSI = r.pressure(filepath.Join(dir, "io.pressure"))
}

// memoryUsage: the working set is what is used without the file pages that can go at once.
func memoryUsage(u *runtimeservice.Usage, usage, limit, inactive runtimeservice.Metric) {
	u.Memory.Usage = usage
	if !usage.Known {
		return
	}
	u.Memory.WorkingSet = known(minus(usage.Value, inactive.Value))
	if limit.Known {
		u.Memory.Available = known(minus(limit.Value, u.Memory.WorkingSet.Value))
	}
}

func minus(a, b uint64) uint64 {
	if b > a {
		return 0
	}
	return a - b
}

func field(table map[string]uint64, name string) runtimeservice.Metric {
	v, ok := table[name]
	return runtimeservice.Metric{Value: v, Known: ok}
}

func (r *reader) file(path string) (string, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) && r.err == nil {
			r.err = err
		}
		return "", false
	}
	r.read++
	return string(text), true
}

// number reads a single number; "max" is unknown.
func (r *reader) number(path string) runtimeservice.Metric {
	text, ok := r.file(path)
	if !ok {
		return runtimeservice.Metric{}
	}
	v, err := strconv.ParseUint(strings.TrimSpace(text), 10, 64)
	return runtimeservice.Metric{Value: v, Known: err == nil}
}

// table reads lines of "name number".
func (r *reader) table(path string) map[string]uint64 {
	out := map[string]uint64{}
	text, _ := r.file(path)
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if v, err := strconv.ParseUint(value, 10, 64); err == nil {
			out[name] = v
		}
	}
	return out
}

// pressure reads a PSI file; nil where the kernel has none.
func (r *reader) pressure(path string) *runtimeservice.PSI {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil // also EOPNOTSUPP: PSI can be switched off at boot
	}
	out := &runtimeservice.PSI{}
	for line := range strings.Lines(string(text)) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch kind {
		case "some":
			out.Some = pressureLine(rest)
		case "full":
			out.Full = pressureLine(rest)
		}
	}
	return out
}

func pressureLine(text string) runtimeservice.PSILine {
	out := runtimeservice.PSILine{}
	for part := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(part, "=")
		switch name {
		case "total":
			out.Total, _ = strconv.ParseUint(value, 10, 64)
		case "avg10":
			out.Avg10, _ = strconv.ParseFloat(value, 64)
		case "avg60":
			out.Avg60, _ = strconv.ParseFloat(value, 64)
		case "avg300":
			out.Avg300, _ = strconv.ParseFloat(value, 64)
		}
	}
	return out
}
