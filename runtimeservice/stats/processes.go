package stats

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice"
)

// processes counts processes, their open files and their sockets. One that ends meanwhile counts no more.
func (m Machine) processes(pids []int, p *runtimeservice.ProcessDetail) {
	p.Processes = known(uint64(len(pids)))
	var descriptors, sockets uint64
	for _, pid := range pids {
		dir := filepath.Join(m.Proc, strconv.Itoa(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		descriptors += uint64(len(entries))
		for _, e := range entries {
			if target, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(target, "socket:") {
				sockets++
			}
		}
	}
	p.Descriptors, p.Sockets = known(descriptors), known(sockets)
	if len(pids) > 0 {
		p.OpenFilesMax = openFilesMax(filepath.Join(m.Proc, strconv.Itoa(slices.Min(pids)), "limits"))
	}
}

// openFilesMax finds the line "Max open files   1024   4096   files".
func openFilesMax(path string) runtimeservice.Metric {
	text, _ := os.ReadFile(path) // the process has ended: there is no limit to know
	for line := range strings.Lines(string(text)) {
		rest, found := strings.CutPrefix(line, "Max open files")
		columns := strings.Fields(rest)
		if !found || len(columns) < 1 {
			continue
		}
		v, err := strconv.ParseUint(columns[0], 10, 64)
		return runtimeservice.Metric{Value: v, Known: err == nil}
	}
	return runtimeservice.Metric{}
}

// Space looks at the file system that holds path. One without a block device is named by the path.
func (m Machine) Space(path string) (runtimeservice.DiskSpace, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return runtimeservice.DiskSpace{}, fmt.Errorf("look at the file system of %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return runtimeservice.DiskSpace{}, fmt.Errorf("look at %s: %w", path, err)
	}
	out := runtimeservice.DiskSpace{
		Device: m.device(uint64(unix.Major(st.Dev)), uint64(unix.Minor(st.Dev))),
		Bytes:  fs.Blocks * uint64(fs.Bsize), Inodes: fs.Files, FreeInodes: fs.Ffree,
	}
	if out.Device == "" {
		out.Device = path
	}
	return out, nil
}
