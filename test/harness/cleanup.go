package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// close ends everything of the host and proves that nothing is left.
func (h *Host) close() {
	if h.t.Failed() {
		h.dumpLogs()
	}
	h.killAll()
	for _, c := range h.holders() {
		c.Process.Kill()
		c.Wait()
	}
	if err := h.removeCgroups(); err != nil {
		h.t.Errorf("left behind: %v", err)
	}
	if err := retry(func() error { return os.RemoveAll(h.Dir) }, "remove "+h.Dir); err != nil {
		h.t.Errorf("left behind: %v", err)
	}
	if left := mounts(h.Dir); len(left) > 0 {
		h.t.Errorf("left behind on the machine: mounts %v", left)
	}
}

func (h *Host) holders() []*exec.Cmd {
	var out []*exec.Cmd
	for _, c := range []*exec.Cmd{h.holder, h.outside} {
		if c != nil {
			out = append(out, c)
		}
	}
	return out
}

// dumpLogs shows the end of the host's logs after a failure.
func (h *Host) dumpLogs() {
	if h.holder == nil {
		return
	}
	for _, f := range []string{"/var/log/skiff/server.log", "/var/log/skiff/cri.log"} {
		raw, err := os.ReadFile(h.Path(f))
		if err != nil {
			continue
		}
		h.t.Logf("--- end of %s\n%s", f, raw[max(0, len(raw)-12000):])
	}
}

// killAll kills, by pid, each process in the host's namespaces or cgroups, until there is none.
func (h *Host) killAll() {
	for deadline := time.Now().Add(20 * time.Second); ; {
		pids := h.Processes()
		if len(pids) == 0 {
			return
		}
		if time.Now().After(deadline) {
			h.t.Errorf("left behind: processes %v do not end", pids)
			return
		}
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func link(pid int, ns string) string {
	l, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
	return l
}

// Processes lists the pids of what runs in the host: in one of its namespaces, or below its cgroup parent.
func (h *Host) Processes() []int {
	spaces, skip := map[string]bool{}, map[int]bool{os.Getpid(): true}
	for _, c := range h.holders() {
		spaces[link(c.Process.Pid, "net")], spaces[link(c.Process.Pid, "mnt")] = true, true
		skip[c.Process.Pid] = true
	}
	delete(spaces, link(os.Getpid(), "net"))
	delete(spaces, link(os.Getpid(), "mnt"))
	delete(spaces, "")
	var out []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		pid, err := strconv.Atoi(filepath.Base(d))
		if err != nil || skip[pid] || state(pid) == "Z" {
			continue
		}
		cg, _ := os.ReadFile(filepath.Join(d, "cgroup"))
		if spaces[link(pid, "net")] || spaces[link(pid, "mnt")] || strings.Contains(string(cg), ":"+h.CgroupRoot+"/") {
			out = append(out, pid)
		}
	}
	return out
}

// state is the letter of a process's state in /proc/<pid>/stat; "Z" for one that is gone or waits to be reaped.
func state(pid int) string {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "Z"
	}
	_, rest, _ := strings.Cut(string(raw), ") ")
	return rest[:min(1, len(rest))]
}

// removeCgroups removes the host's cgroup parent from every hierarchy.
func (h *Host) removeCgroups() error {
	var errs []error
	for _, root := range h.cgroupRoots() {
		for _, d := range slices.Backward(append([]string{root}, dirs(root)...)) {
			errs = append(errs, retry(func() error { return unix.Rmdir(d) }, "remove cgroup "+d))
		}
	}
	return errors.Join(errs...)
}

func (h *Host) cgroupRoots() []string {
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + h.CgroupRoot)
	if v2 := filepath.Join("/sys/fs/cgroup", h.CgroupRoot); exists(v2) {
		roots = append(roots, v2)
	}
	return roots
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// dirs lists the directories below root, parents first.
func dirs(root string) []string {
	var out []string
	filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && p != root {
			out = append(out, p)
		}
		return nil
	})
	return out
}

// retry repeats what the kernel refuses for a moment after a process was reaped.
func retry(f func() error, what string) error {
	for deadline := time.Now().Add(10 * time.Second); ; {
		err := f()
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: %w", what, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// mounts lists mounts of the test's own namespace that belong to the host of this directory.
func mounts(dir string) []string {
	raw, _ := os.ReadFile("/proc/self/mounts")
	var out []string
	for line := range strings.Lines(string(raw)) {
		if strings.Contains(line, dir) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}
