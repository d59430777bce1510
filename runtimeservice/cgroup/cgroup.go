// Package cgroup finds, makes and removes cgroup directories, the same under v1 (one directory per controller) and
// v2 (one in all). Paths are in cgroupfs syntax, as CRI has them: "/kubepods/burstable/pod…".
package cgroup

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Root is a mounted cgroup hierarchy, usually /sys/fs/cgroup.
type Root struct {
	Path string
	V2   bool
}

// dirs is where a cgroup may have a directory.
func (r Root) dirs(cgroup string) []string {
	if r.V2 {
		return []string{filepath.Join(r.Path, cgroup)}
	}
	entries, err := os.ReadDir(r.Path)
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		// Links are controllers mounted together: cpu → cpu,cpuacct.
		if dir := filepath.Join(r.Path, e.Name()); e.IsDir() && isHierarchy(dir) {
			out = append(out, filepath.Join(dir, cgroup))
		}
	}
	return out
}

// isHierarchy: below /sys/fs/cgroup, a directory on which nothing is mounted has ordinary directories below it, which are
// none of ours. Elsewhere it is a test's.
func isHierarchy(dir string) bool {
	if !strings.HasPrefix(dir, "/sys/") {
		return true
	}
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && (st.Type == unix.CGROUP_SUPER_MAGIC || st.Type == unix.CGROUP2_SUPER_MAGIC)
}

// Controller is the directory of a cgroup for one v1 controller; under v2 they all have the same.
func (r Root) Controller(name, cgroup string) string {
	if r.V2 {
		return filepath.Join(r.Path, cgroup)
	}
	return filepath.Join(r.Path, name, cgroup)
}

// Exists says whether the cgroup has a directory anywhere.
func (r Root) Exists(cgroup string) bool {
	for _, dir := range r.dirs(cgroup) {
		if _, err := os.Stat(dir); err == nil {
			return true
		}
	}
	return false
}

// Remove removes a cgroup with all below it. Removing what is gone succeeds; processes in it are an error.
func (r Root) Remove(cgroup string) error {
	if filepath.Clean("/"+cgroup) == "/" {
		return errors.New("remove a cgroup: the path is empty")
	}
	var errs []error
	for _, dir := range r.dirs(cgroup) {
		errs = append(errs, removeTree(dir))
	}
	return errors.Join(errs...)
}

// removeTree removes directories only: the files of a cgroup go with it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove a cgroup: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove cgroup %s: %w", dir, err)
	}
	return nil
}

// RemoveEmpty removes a cgroup that has neither processes nor children, and then its parents up to, but without,
// stop. It is best effort: somebody else may use them.
func (r Root) RemoveEmpty(cgroup, stop string) {
	cgroup, stop = filepath.Clean("/"+cgroup), filepath.Clean("/"+stop)
	for cgroup != stop && cgroup != "/" {
		for _, dir := range r.dirs(cgroup) {
			_ = unix.Rmdir(dir)
		}
		cgroup = filepath.Dir(cgroup)
	}
}

// Sweep removes the children of a cgroup that are named like an object of ours, by 64 hex digits, but are not known
// and hold no process.
func (r Root) Sweep(parent string, known map[string]bool) {
	for _, dir := range r.dirs(parent) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // this hierarchy has no such cgroup
		}
		for _, e := range entries {
			raw, err := hex.DecodeString(e.Name())
			if err == nil && len(raw) == 32 && e.IsDir() && !known[e.Name()] {
				_ = removeTree(filepath.Join(dir, e.Name()))
			}
		}
	}
}

// Processes lists the processes of a cgroup and of those below it, once each.
func (r Root) Processes(cgroup string) ([]int, error) {
	seen := map[int]bool{}
	for _, dir := range r.dirs(cgroup) {
		if err := collect(dir, seen); err != nil {
			return nil, err
		}
	}
	var out []int
	for pid := range seen {
		out = append(out, pid)
	}
	return out, nil
}

func collect(dir string, seen map[int]bool) error {
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				seen[pid] = true
			}
		}
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("list the processes of cgroup %s: %w", dir, err)
	}
	return nil
}

// Mounted is the machine's own hierarchy.
func Mounted() (Root, error) {
	const path = "/sys/fs/cgroup"
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return Root{}, fmt.Errorf("look at the cgroup file system: %w", err)
	}
	return Root{Path: path, V2: st.Type == unix.CGROUP2_SUPER_MAGIC}, nil
}

// Enter makes the cgroup and moves a process into it. A v1 cpuset that has no processors yet takes none (ENOSPC) and
// is left out.
func (r Root) Enter(cgroup string, pid int) error {
	var errs []error
	for _, dir := range r.dirs(cgroup) {
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		}
		if !errors.Is(err, unix.ENOSPC) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Kill kills all processes of the cgroup and of those below it.
func (r Root) Kill(cgroup string) error {
	pids, err := r.Processes(cgroup)
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("kill process %d of cgroup %s: %w", pid, cgroup, err))
		}
	}
	return errors.Join(errs...)
}
