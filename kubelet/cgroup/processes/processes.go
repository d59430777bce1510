// Package processes keeps processes of the machine in groups of their own: the kubelet in one (kubeletCgroups), and all others that
// are in none, which is to say in the root's, in another (systemCgroups). Kernel threads and the machine's first process stay where
// they are. It works on the files of control groups, whichever driver pods are made with, as upstream's kubelet does.
package processes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/kubelet/cgroup"
)

// period is how often processes are looked for, and passes how often at most in a row: who is moved may just be making others.
const (
	period = time.Minute
	passes = 11
)

// Config says which processes belong where. A group is a path below the mounts of control groups; "" leaves its processes alone.
type Config struct {
	Layout cgroup.Layout // its zero value means to detect it
	// Kubelet is the group of this process.
	Kubelet string
	// System is the group of all processes that are in From, which means "/" when empty.
	System, From string
	Log          *slog.Logger // optional
}

// Keeper keeps them there.
type Keeper struct{ cfg Config }

// New makes the groups. No process is moved yet.
func New(cfg Config) (*Keeper, error) {
	if cfg.From == "" {
		cfg.From = "/"
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Layout.Version == 0 {
		layout, err := cgroup.Detect()
		if err != nil {
			return nil, fmt.Errorf("find the control groups: %w", err)
		}
		cfg.Layout = layout
	}
	if cfg.System != "" && filepath.Join("/", cfg.System) == filepath.Join("/", cfg.From) {
		return nil, fmt.Errorf("systemCgroups: %q is where the processes are", cfg.System)
	}
	for field, group := range map[string]string{"kubeletCgroups": cfg.Kubelet, "systemCgroups": cfg.System} {
		if group == "" {
			continue
		}
		if err := cfg.Layout.Make(filepath.Join("/", group)); err != nil {
			return nil, fmt.Errorf("%s: make cgroup %q: %w", field, group, err)
		}
	}
	return &Keeper{cfg}, nil
}

// Run moves who is not where he belongs, now and each minute until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	beat := time.NewTicker(period)
	defer beat.Stop()
	for {
		if err := k.Keep(); err != nil {
			k.cfg.Log.Warn("processes could not all be moved to their cgroups", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
		}
	}
}

// Keep moves them once.
func (k *Keeper) Keep() error {
	var errs []error
	if k.cfg.Kubelet != "" {
		errs = append(errs, k.move(os.Getpid(), k.cfg.Kubelet))
	}
	if k.cfg.System != "" {
		errs = append(errs, k.clear())
	}
	return errors.Join(errs...)
}

// clear moves processes out of From until only such are there as stay; the errors of the last pass count.
func (k *Keeper) clear() error {
	var failed error
	for range passes {
		all, err := k.pids()
		if err != nil {
			return fmt.Errorf("list the processes of cgroup %q: %w", k.cfg.From, err)
		}
		who := movable(all, isKernel)
		if len(who) == 0 {
			return nil
		}
		failed = nil
		for _, pid := range who {
			failed = errors.Join(failed, k.move(pid, k.cfg.System))
		}
	}
	return failed
}

// movable leaves out who stays: the first process of the machine, and threads of the kernel.
func movable(pids []int, kernel func(pid int) bool) []int {
	var out []int
	for _, pid := range pids {
		if pid != 1 && !kernel(pid) {
			out = append(out, pid)
		}
	}
	return out
}

// isKernel tells threads of the kernel, which run no program.
func isKernel(pid int) bool {
	_, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return errors.Is(err, fs.ErrNotExist)
}

// pids lists the processes in From.
func (k *Keeper) pids() ([]int, error) {
	root := k.cfg.Layout.Roots[0]
	for _, controller := range []string{"cpu", "devices"} { // the latter, where it is, is what upstream goes by
		if tree := k.cfg.Layout.Trees[controller]; tree != "" {
			root = tree
		}
	}
	data, err := os.ReadFile(filepath.Join(root, k.cfg.From, "cgroup.procs"))
	if err != nil {
		return nil, err
	}
	var out []int
	for _, field := range strings.Fields(string(data)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		if pid > 0 { // 0 is one of another PID namespace
			out = append(out, pid)
		}
	}
	return out, nil
}

// move puts a process into the group, in each tree. One that has ended is where it belongs.
func (k *Keeper) move(pid int, group string) error {
	for _, root := range k.cfg.Layout.Roots {
		err := os.WriteFile(filepath.Join(root, group, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0)
		if errors.Is(err, unix.ESRCH) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("move process %d to cgroup %q: %w", pid, group, err)
		}
	}
	return nil
}
