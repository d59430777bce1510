package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/skiff-node/skiff/test/harness"
)

// memory is what the processes of one program take, in bytes.
type memory struct {
	Processes int
	RSS       float64 // resident, shared pages counted in each process
	Private   float64 // pages that no other process maps: Private_Clean and Private_Dirty of smaps_rollup
}

// usage reads the memory of every process of a host, by program.
func usage(h *harness.Host) map[string]memory {
	out := map[string]memory{}
	for _, pid := range h.Processes() {
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		name := program(pid)
		m := out[name]
		m.Processes++
		m.RSS += kilobytes(raw, "Rss:")
		m.Private += kilobytes(raw, "Private_Clean:") + kilobytes(raw, "Private_Dirty:")
		out[name] = m
	}
	return out
}

// program is the name of a process's executable; a program that runs from memory says its own name.
func program(pid int) string {
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

// overhead is the private memory of all but the measured containers' own processes.
func overhead(m map[string]memory) float64 {
	sum := 0.0
	for name, u := range m {
		if name != "app" {
			sum += u.Private
		}
	}
	return sum
}

// total is the resident memory of all programs but the measured one.
func total(m map[string]memory) float64 {
	sum := 0.0
	for name, u := range m {
		if name != "app" {
			sum += u.RSS
		}
	}
	return sum
}

// cpu is the processor time, in milliseconds, that everything below a host's cgroup has taken so far, processes that have
// ended included: the server, its helpers and the containers. It depends less on what else the machine does than time does.
func cpu(h *harness.Host) float64 {
	if raw, err := os.ReadFile("/sys/fs/cgroup/cpuacct" + h.CgroupRoot + "/cpuacct.usage"); err == nil {
		ns, _ := strconv.ParseFloat(strings.TrimSpace(string(raw)), 64)
		return ns / 1e6
	}
	raw, _ := os.ReadFile("/sys/fs/cgroup" + h.CgroupRoot + "/cpu.stat")
	_, rest, _ := strings.Cut("\n"+string(raw), "\nusage_usec ")
	us, _ := strconv.ParseFloat(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), 64)
	return us / 1e3
}
