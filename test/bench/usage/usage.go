// Package usage reads what the processes of a simulated host take: memory and processor time.
package usage

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skiff-node/skiff/test/harness"
)

// Memory is what the processes of one program take, in bytes.
type Memory struct {
	Processes int
	RSS       float64 // resident, shared pages counted in each process
	Private   float64 // pages that no other process maps: Private_Clean and Private_Dirty of smaps_rollup
}

// Of reads the memory of every process of a host, by program.
func Of(h *harness.Host) map[string]Memory { return of(h.Processes()) }

// Below sums up the memory of the processes in one cgroup.
func Below(cgroup string) Memory {
	var sum Memory
	var pids []int
	for line := range strings.Lines(string(controlFile("cpuacct", cgroup, "cgroup.procs", "cgroup.procs"))) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			pids = append(pids, pid)
		}
	}
	for _, m := range of(pids) {
		sum = Memory{sum.Processes + m.Processes, sum.RSS + m.RSS, sum.Private + m.Private}
	}
	return sum
}

func of(pids []int) map[string]Memory {
	out := map[string]Memory{}
	for _, pid := range pids {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		name := Program(pid)
		m := out[name]
		m.Processes++
		m.RSS += kilobytes(raw, "Rss:")
		m.Private += kilobytes(raw, "Private_Clean:") + kilobytes(raw, "Private_Dirty:")
		out[name] = m
	}
	return out
}

// Program is the name of a process's executable; a program that runs from memory says its own name.
func Program(pid int) string {
	exe, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	if exe != "" && !strings.Contains(exe, "memfd:") {
		return strings.TrimSuffix(filepath.Base(exe), " (deleted)")
	}
	cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	argv0, _, _ := strings.Cut(string(cmdline), "\x00")
	return filepath.Base(argv0)
}

func kilobytes(rollup []byte, key string) float64 {
	_, rest, ok := bytes.Cut(rollup, []byte("\n"+key))
	if !ok {
		return 0
	}
	kb, _ := strconv.ParseFloat(strings.Fields(string(rest))[0], 64)
	return kb * 1024
}

// Overhead is the private memory of all but the measured containers' own processes.
func Overhead(m map[string]Memory) float64 {
	sum := 0.0
	for name, u := range m {
		if name != "app" {
			sum += u.Private
		}
	}
	return sum
}

// Total is the resident memory of all programs but the measured one.
func Total(m map[string]Memory) float64 {
	sum := 0.0
	for name, u := range m {
		if name != "app" {
			sum += u.RSS
		}
	}
	return sum
}

// CPU is the processor time, in milliseconds, that everything below a host's cgroup has taken so far, processes that have
// ended included: the server, its helpers and the containers. It depends less on what else the machine does than time does.
func CPU(h *harness.Host) float64 { return CPUBelow(h.CgroupRoot) }

// CPUBelow is the same of one cgroup.
func CPUBelow(cgroup string) float64 {
	raw := controlFile("cpuacct", cgroup, "cpuacct.usage", "cpu.stat")
	if ns, err := strconv.ParseFloat(strings.TrimSpace(string(raw)), 64); err == nil {
		return ns / 1e6
	}
	_, rest, _ := strings.Cut("\n"+string(raw), "\nusage_usec ")
	us, _ := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), 64)
	return us / 1e3
}

// controlFile reads a file of a cgroup: of a controller's hierarchy where there is one (v1), else of the only one (v2).
func controlFile(controller, cgroup, v1, v2 string) []byte {
	if raw, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, cgroup, v1)); err == nil {
		return raw
	}
	raw, _ := os.ReadFile(filepath.Join("/sys/fs/cgroup", cgroup, v2))
	return raw
}
