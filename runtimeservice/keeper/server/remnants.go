package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// remnants are what an earlier keeper has exec'ed into a container and nobody waits for any more.
type remnants struct{ of *container }

// kill ends what was exec'ed by an earlier keeper, with all that it started. In a PID namespace of the container's own
// that is every process whose parent is outside; orphans have the init for a parent. Elsewhere orphans go to us, and execs are
// told from them by the files that execs.note writes.
func (r remnants) kill() error {
	leaders, err := r.leaders()
	if err != nil {
		return err
	}
	for _, leader := range leaders {
		family, err := r.of.execs.family(leader)
		if err != nil {
			return err
		}
		for _, pid := range append(family, leader) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}
	return nil
}

func (r remnants) leaders() ([]int, error) {
	if r.of.execs.noting() {
		return r.noted()
	}
	pids, err := oci.Pids(r.of.rec.Created.Cgroups)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	inside := map[int]bool{}
	for _, pid := range pids {
		inside[pid] = true
	}
	var leaders []int
	for _, pid := range pids {
		if _, parent, err := proc.Session(pid); err == nil && !inside[parent] && pid != r.of.rec.Created.Pid {
			leaders = append(leaders, pid)
		}
	}
	return leaders, nil
}

// noted are the living processes that execs.note has written down.
func (r remnants) noted() ([]int, error) {
	entries, err := os.ReadDir(r.of.execs.noteDir())
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
		_ = os.Remove(filepath.Join(r.of.execs.noteDir(), e.Name()))
	}
	return pids, nil
}
