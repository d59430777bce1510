package oci

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/systemd"
	"golang.org/x/sys/unix"
)

// emptyWait bounds how long killed processes of a left-over cgroup may take to disappear.
const emptyWait = 5 * time.Second

// OOMKills counts the processes that the kernel killed in a container's cgroup for want of memory: memory.events of
// cgroup v2, memory.oom_control of v1 (Linux 4.13). It must be read before the cgroup is deleted.
func OOMKills(dirs map[string]string) (uint64, error) {
	path := ""
	switch {
	case dirs["memory"] != "":
		path = filepath.Join(dirs["memory"], "memory.oom_control")
	case dirs[""] != "":
		path = filepath.Join(dirs[""], "memory.events")
	default:
		return 0, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, fmt.Errorf("count OOM kills: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if n, ok := strings.CutPrefix(lines.Text(), "oom_kill "); ok {
			return strconv.ParseUint(n, 10, 64)
		}
	}
	return 0, lines.Err()
}

// Pids lists the processes in a container's cgroup and below it.
func Pids(dirs map[string]string) ([]int, error) {
	for _, controller := range []string{"devices", "pids", "memory", ""} {
		if dir := dirs[controller]; dir != "" {
			pids, err := cgroups.GetAllPids(dir)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return nil, nil
			}
			return pids, err
		}
	}
	return nil, nil
}

// KillAll kills every process in a container's cgroup and returns when none is left.
func KillAll(dirs map[string]string) error {
	return killCgroup(func() ([]int, error) { return Pids(dirs) })
}

// killCgroup repeats, as a process may fork while we look, until the cgroup is empty. It polls: a v1 cgroup tells
// nobody that it became empty, and this is the way of left-overs and of containers in a foreign PID namespace only.
func killCgroup(list func() ([]int, error)) error {
	deadline := time.Now().Add(emptyWait)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		pids, err := list()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list processes of cgroup: %w", err)
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes survive SIGKILL in the cgroup, the first is %d", len(pids), pids[0])
		}
		if slices.Contains(pids, 1) || slices.Contains(pids, os.Getpid()) {
			return errors.New("refuse to kill the processes of a cgroup that is not the container's own")
		}
		for _, pid := range pids {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		time.Sleep(pause)
	}
}

// cgroupsOf finds the cgroup directories of a process that another runtime has placed.
func cgroupsOf(pid int) (map[string]string, error) {
	names, err := cgroups.ParseCgroupFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return nil, fmt.Errorf("read cgroups of %d: %w", pid, err)
	}
	if cgroups.IsCgroup2UnifiedMode() {
		return map[string]string{"": filepath.Join("/sys/fs/cgroup", names[""])}, nil
	}
	dirs := map[string]string{}
	for _, controller := range []string{"devices", "pids", "memory"} {
		mount, err := cgroups.FindCgroupMountpoint("", controller)
		if err == nil {
			dirs[controller] = filepath.Join(mount, names[controller])
		}
	}
	return dirs, nil
}

// cgroupsAt are the directories of a cgroup by its path, as far as they exist: a virtual machine has those of its pod.
func cgroupsAt(path string) map[string]string {
	dirs := map[string]string{}
	path = cgroupPath(path)
	add := func(controller, mount string) {
		dir := filepath.Join(mount, path)
		if _, err := os.Stat(dir); err == nil {
			dirs[controller] = dir
		}
	}
	if cgroups.IsCgroup2UnifiedMode() {
		add("", "/sys/fs/cgroup")
		return dirs
	}
	for _, controller := range []string{"devices", "pids", "memory"} {
		if mount, err := cgroups.FindCgroupMountpoint("", controller); err == nil {
			add(controller, mount)
		}
	}
	return dirs
}

// cgroupPath is the path of a specification's cgroup, which for systemd is written "slice:prefix:name".
func cgroupPath(path string) string {
	parts := strings.Split(path, ":")
	if len(parts) != 3 {
		return path
	}
	if parts[0] == "" {
		parts[0] = "system.slice"
	}
	slice, err := systemd.ExpandSlice(parts[0])
	if err != nil {
		return path // the runtime has refused it
	}
	return filepath.Join(slice, parts[1]+"-"+parts[2]+".scope")
}
