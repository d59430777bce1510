package execs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// KillRemnants ends what was exec'ed by an earlier keeper, with all that it started. In a PID namespace of the container's own
// that is every process whose parent is outside; orphans have the init for a parent. Elsewhere orphans go to us, and execs are
// told from them by the files that note writes.
func (x *Table) KillRemnants() error {
	leaders, err := x.leaders()
	if err != nil {
		return err
	}
	for _, leader := range leaders {
		family, err := x.family(leader)
		if err != nil {
			return err
		}
		for _, pid := range append(family, leader) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return nil
}

func (x *Table) leaders() ([]int, error) {
	if x.noting() {
		return x.noted()
	}
	pids, err := oci.Pids(x.of.Created().Cgroups)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	inside := map[int]bool{}
	for _, pid := range pids {
		inside[pid] = true
	}
	var leaders []int
	for _, pid := range pids {
		if _, parent, err := proc.Session(pid); err == nil && !inside[parent] && pid != x.of.Created().Pid {
			leaders = append(leaders, pid)
		}
	}
	return leaders, nil
}

// noted are the living processes that note has written down.
func (x *Table) noted() ([]int, error) {
	entries, err := os.ReadDir(x.noteDir())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		var pid int
		var start uint64
		if _, err := fmt.Sscanf(e.Name(), "%d-%d", &pid, &start); err != nil {
			continue
		}
		if now, err := proc.StartTime(pid); err == nil && now == start {
			pids = append(pids, pid)
		}
		_ = os.Remove(filepath.Join(x.noteDir(), e.Name()))
	}
	return pids, nil
}

// noting tells whether execs must be written down: in a shared PID namespace, and under a foreign runtime, whose
// processes may be in no namespace that we know.
func (x *Table) noting() bool {
	return x.of.Foreign || x.of.Created().SharedPid
}

// noteDir has a file for each exec that is noted, named by its pid and start time.
func (x *Table) noteDir() string {
	return filepath.Join(x.of.Dir, "execs")
}

// note writes an exec down for the next keeper, and returns how to forget it.
func (x *Table) note(pid int) (forget func()) {
	if !x.noting() {
		return func() {}
	}
	path, err := x.notePath(pid)
	if err != nil {
		return func() {} // it has exited
	}
	if err = os.MkdirAll(x.noteDir(), 0o700); err == nil {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		x.of.Log.Warn("exec will run on if the keeper dies", "container", x.of.ID, "error", err)
	}
	return func() { _ = os.Remove(path) }
}

// forget is how to forget what an earlier keeper has noted.
func (x *Table) forget(pid int) func() {
	path, err := x.notePath(pid)
	if err != nil || !x.noting() {
		return func() {}
	}
	return func() { _ = os.Remove(path) }
}

func (x *Table) notePath(pid int) (string, error) {
	start, err := proc.StartTime(pid)
	return filepath.Join(x.noteDir(), fmt.Sprintf("%d-%d", pid, start)), err
}
