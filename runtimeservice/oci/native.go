package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // or each container with device rules fails
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/oci/filter"
)

// Native runs containers with libcontainer in this process. The process's binary must call libcontainer.Init when its
// first argument is "init", and import libcontainer/nsenter.
type Native struct {
	root    string
	limits  limits
	filters *filter.Book
	log     *slog.Logger
}

// NewNative returns a runtime that keeps its state below root, and beside it, which must be on a file system that a
// reboot clears. There is one in a process: inits learn from its os.Args[0] where that is.
func NewNative(root string, log *slog.Logger) (*Native, error) {
	if !filepath.IsAbs(root) {
		return nil, fmt.Errorf("state directory %q: must be absolute", root)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	l, err := probeLimits()
	if err != nil {
		return nil, err
	}
	filters, err := filter.NewBook(root+filter.Suffix, log)
	if err != nil {
		return nil, err
	}
	os.Args[0] = root // libcontainer hands it on to inits, and nothing else that we could say something with
	return &Native{root: root, limits: l, filters: filters, log: log}, nil
}

// CompileArg is the argument with which Native executes this binary to run RunCompile.
const CompileArg = filter.CompileArg

// RunCompile compiles one seccomp profile from standard input.
func RunCompile() error { return filter.RunCompile() }

// Create makes the container and its init, which waits for Start. Left-overs of an earlier container of that name,
// from a keeper that was killed, are removed first.
func (n *Native) Create(_ context.Context, req Create) (Created, error) {
	spec := &specs.Spec{}
	if err := json.Unmarshal(req.Spec, spec); err != nil {
		return Created{}, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	if err := n.limits.apply(spec); err != nil {
		return Created{}, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	annotateCriu(spec)
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{
		CgroupName:       req.ID,
		UseSystemdCgroup: req.SystemdCgroup,
		Spec:             spec,
	})
	if err != nil {
		return Created{}, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	process, err := newProcess(spec.Process)
	if err != nil {
		return Created{}, fmt.Errorf("%w: %w", ErrSpec, err)
	}
	process.Init = true
	n.filters.Want(config.Seccomp)
	c, err := n.make(req.ID, config)
	if err != nil {
		return Created{}, err
	}
	if req.Restore != "" {
		return n.restore(req, c, config, process)
	}
	made, err := n.direct(c, process, req.IO)
	if err == nil {
		return made, nil
	}
	level := slog.LevelInfo
	if errors.Is(err, errLong) {
		level = slog.LevelDebug // as it should be
	}
	n.log.Log(context.Background(), level, "container is made the long way", "container", req.ID, "reason", err)
	return n.long(req, c, config, process)
}

// long makes the container with libcontainer's init.
func (n *Native) long(req Create, c *libcontainer.Container, config *configs.Config, process *libcontainer.Process) (Created, error) {
	if tree, err := plantCgroups(config); err != nil {
		n.log.Debug("the init mounts cgroups by itself", "error", err)
	} else if tree != nil {
		defer func() { go tree.Close() }() // the kernel takes its time to take a mount down
	}
	started, err := start(c, process, req.IO)
	if err != nil {
		return Created{}, errors.Join(err, c.Destroy())
	}
	state, err := c.State()
	if err == nil {
		err = n.markWaiting(req.ID)
	}
	if err != nil {
		return Created{}, errors.Join(fmt.Errorf("read state of container: %w", err), c.Destroy())
	}
	return Created{
		Pid:       started.Pid,
		Console:   started.Console,
		Cgroups:   state.CgroupPaths,
		SharedPid: !config.Namespaces.IsPrivate(configs.NEWPID),
	}, nil
}

// Start lets the waiting init execute the container's program. It returns ErrGone when died is closed first.
func (n *Native) Start(_ context.Context, id string, died <-chan struct{}) error {
	if n.wasRestored(id) {
		return nil
	}
	return release(filepath.Join(n.root, id, fifoName), died)
}

// Exec runs one more process in the container, which must be running.
func (n *Native) Exec(_ context.Context, id string, spec json.RawMessage, io IO) (Process, error) {
	p := &specs.Process{}
	if err := json.Unmarshal(spec, p); err != nil {
		return Process{}, fmt.Errorf("%w: process: %w", ErrSpec, err)
	}
	n.limits.applyRlimits(p)
	process, err := newProcess(p)
	if err != nil {
		return Process{}, fmt.Errorf("%w: process: %w", ErrSpec, err)
	}
	c, err := load(n.root, id)
	if err != nil {
		return Process{}, fmt.Errorf("load container: %w", err)
	}
	return start(c, process, io)
}

// Update changes the resources that are set in the OCI LinuxResources and leaves the others.
func (n *Native) Update(_ context.Context, id string, resources json.RawMessage) error {
	r := &specs.LinuxResources{}
	if err := json.Unmarshal(resources, r); err != nil {
		return fmt.Errorf("%w: resources: %w", ErrSpec, err)
	}
	c, err := load(n.root, id)
	if err != nil {
		return fmt.Errorf("load container: %w", err)
	}
	config := c.Config()
	changed := *config.Cgroups.Resources
	merge(&changed, r)
	cgroup := *config.Cgroups
	cgroup.Resources = &changed
	config.Cgroups = &cgroup
	if err := c.Set(config); err != nil {
		return fmt.Errorf("set resources: %w", err)
	}
	return nil
}

// Delete removes a container that has exited: its cgroups and state. What is gone already is no error.
func (n *Native) Delete(_ context.Context, id string) error {
	c, err := load(n.root, id)
	if errors.Is(err, libcontainer.ErrNotExist) {
		return os.RemoveAll(filepath.Join(n.root, id))
	}
	if err != nil {
		return fmt.Errorf("load container: %w", err)
	}
	if err := c.Destroy(); err != nil {
		return fmt.Errorf("delete container: %w", err)
	}
	return nil
}

// make makes the container's state directory. libcontainer refuses one that exists, and a cgroup with processes: then
// the left-overs are removed, which are looked for only now because that costs as much as half a cgroup.
func (n *Native) make(id string, config *configs.Config) (*libcontainer.Container, error) {
	c, err := libcontainer.Create(n.root, id, config)
	if err == nil {
		return c, nil
	}
	if cleanErr := n.clean(id, config); cleanErr != nil {
		return nil, fmt.Errorf("create container: %w (and what an earlier one left cannot be removed: %w)", err, cleanErr)
	}
	if c, err = libcontainer.Create(n.root, id, config); err != nil {
		return nil, fmt.Errorf("create container: %w", err)
	}
	return c, nil
}

// clean removes a state directory and kills processes of a cgroup that an earlier container of the name left.
func (n *Native) clean(id string, config *configs.Config) error {
	if id == "" || strings.ContainsRune(id, '/') || id == "." || id == ".." {
		return libcontainer.ErrInvalidID
	}
	dir := filepath.Join(n.root, id)
	if _, err := os.Lstat(dir); err == nil {
		if old, err := load(n.root, id); err == nil {
			_ = old.Signal(unix.SIGKILL)
			_ = old.Destroy()
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return killAll(config.Cgroups)
}

// killAll kills the processes of a cgroup, if it is there, frozen ones too.
func killAll(config *cgroups.Cgroup) error {
	cg, err := manager.New(config)
	if err != nil || !cg.Exists() {
		return err
	}
	if err := cg.Freeze(cgroups.Thawed); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("thaw: %w", err)
	}
	return killCgroup(cg.GetAllPids)
}

// start starts the process and receives its terminal.
func start(c *libcontainer.Container, process *libcontainer.Process, io IO) (Process, error) {
	var console *consoleSocket
	if io.TTY {
		var err error
		if console, err = newConsoleSocket(); err != nil {
			return Process{}, err
		}
		defer console.close()
		process.ConsoleSocket = console.child
	} else {
		setStreams(process, io)
	}
	// Else the init writes a debug line for each step, and this process parses them.
	process.LogLevel = strconv.Itoa(int(logrus.WarnLevel))
	if err := c.Start(process); err != nil {
		return Process{}, fmt.Errorf("start process: %w", err)
	}
	pid, err := process.Pid()
	if err != nil {
		return Process{}, fmt.Errorf("start process: %w", err)
	}
	if console == nil {
		return Process{Pid: pid}, nil
	}
	master, err := console.receive()
	if err != nil {
		_ = process.Signal(unix.SIGKILL)
		_, _ = process.Wait()
		return Process{}, err
	}
	return Process{Pid: pid, Console: master}, nil
}

// setStreams avoids typed nils: a nil *os.File in an interface is not /dev/null.
func setStreams(process *libcontainer.Process, io IO) {
	if io.Stdin != nil {
		process.Stdin = io.Stdin
	}
	if io.Stdout != nil {
		process.Stdout = io.Stdout
	}
	if io.Stderr != nil {
		process.Stderr = io.Stderr
	}
}

// Sweep kills and removes whatever a container of that name has left.
func (n *Native) Sweep(id string) error {
	c, err := load(n.root, id)
	if err != nil {
		return os.RemoveAll(filepath.Join(n.root, id))
	}
	if err := c.Signal(unix.SIGKILL); err != nil && !errors.Is(err, libcontainer.ErrNotRunning) {
		return fmt.Errorf("kill container: %w", err)
	}
	state, err := c.State()
	if err != nil {
		return err
	}
	if err := KillAll(state.CgroupPaths); err != nil {
		return err
	}
	return c.Destroy()
}
