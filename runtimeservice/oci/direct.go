package oci

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/moby/sys/userns"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/manager"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/system"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/oci/entry"
)

// errLong says that a container is one for libcontainer's init.
var errLong = errors.New("libcontainer's init")

// direct makes the init of a container by a program of system calls (package entry), with libcontainer's state, so that all
// else is done by libcontainer as ever. On an error nothing is left of it but what libcontainer.Create had made: the
// container can still be made the long way, which also is what says what is wrong with it.
func (n *Native) direct(c *libcontainer.Container, process *libcontainer.Process, io IO) (Created, error) {
	config := c.Config()
	if io.TTY || userns.RunningInUserNS() {
		return Created{}, fmt.Errorf("%w: a terminal, or devices that cannot be made", errLong)
	}
	e := entry.Container{ID: c.ID(), Config: &config, Process: process, Tree: wantsTree(&config), Unified: cgroups.IsCgroup2UnifiedMode()}
	program, why := entry.Compile(e)
	if why != "" {
		return Created{}, fmt.Errorf("%w: %s", errLong, why)
	}
	tree, err := growCgroups(&config)
	if err != nil {
		return Created{}, fmt.Errorf("mount cgroups: %w", err)
	}
	if tree != nil {
		defer tree.Close()
	}
	fifo, err := n.makeFifo(c.ID())
	if err != nil {
		return Created{}, errors.Join(err, n.forget(c.ID()))
	}
	defer fifo.Close()
	init, err := entry.Begin(e.CloneFlags(), entry.Streams{Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr}, fifo, tree)
	if err == nil {
		var made Created
		if made, err = n.bringUp(c, init, program, io); err == nil {
			return made, nil
		}
		init.Abort()
	}
	return Created{}, errors.Join(err, n.forget(c.ID()))
}

// makeFifo makes what the init waits at.
func (n *Native) makeFifo(id string) (*os.File, error) {
	path := filepath.Join(n.root, id, fifoName)
	if err := unix.Mkfifo(path, 0o622); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	if err := errors.Join(os.Chmod(path, 0o622), n.markWaiting(id)); err != nil { // whatever the umask
		return nil, err
	}
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// forget removes what direct has added to the container's state.
func (n *Native) forget(id string) error {
	dir := filepath.Join(n.root, id)
	return errors.Join(removed(filepath.Join(dir, fifoName)), removed(filepath.Join(dir, stateName)))
}

func removed(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// bringUp takes a process that waits for its program to where it waits to be started. The state is
// written while it mounts.
func (n *Native) bringUp(c *libcontainer.Container, init *entry.Process, program *entry.Program, io IO) (Created, error) {
	state, err := c.State()
	if err != nil {
		return Created{}, err
	}
	config := &state.Config
	group, err := manager.NewWithPaths(config.Cgroups, state.CgroupPaths)
	if err != nil {
		return Created{}, err
	}
	if err := group.Apply(init.Pid); err != nil {
		return Created{}, fmt.Errorf("enter cgroups: %w", err)
	}
	if err := init.Tell(program); err != nil {
		return Created{}, err
	}
	state.CgroupPaths = group.GetPaths()
	if err := describe(state, init.Pid, io); err != nil {
		return Created{}, err
	}
	if err := n.saveState(state); err != nil {
		return Created{}, err
	}
	if err := init.AwaitReady(program); err != nil {
		return Created{}, err
	}
	if err := group.Set(config.Cgroups.Resources); err != nil {
		return Created{}, fmt.Errorf("set resources: %w", err)
	}
	if err := init.Finish(program); err != nil {
		return Created{}, err
	}
	return Created{Pid: init.Pid, Cgroups: state.CgroupPaths, SharedPid: !config.Namespaces.IsPrivate(configs.NEWPID)}, nil
}

// describe completes libcontainer's state by the process.
func describe(state *libcontainer.State, pid int, io IO) error {
	stat, err := system.Stat(pid)
	if err != nil {
		return fmt.Errorf("look at init: %w", err)
	}
	state.InitProcessPid, state.InitProcessStartTime, state.Created = pid, stat.StartTime, time.Now().UTC()
	for _, ns := range state.Config.Namespaces {
		state.NamespacePaths[ns.Type] = ns.GetPath(pid)
	}
	for _, kind := range configs.NamespaceTypes() {
		if _, ok := state.NamespacePaths[kind]; !ok && configs.IsNamespaceSupported(kind) {
			ns := configs.Namespace{Type: kind}
			state.NamespacePaths[kind] = ns.GetPath(pid)
		}
	}
	state.ExternalDescriptors = nil // what a checkpoint goes by
	for _, f := range []*os.File{io.Stdin, io.Stdout, io.Stderr} {
		name := os.DevNull
		if f != nil {
			if name, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())); err != nil {
				return fmt.Errorf("look at a stream: %w", err)
			}
		}
		state.ExternalDescriptors = append(state.ExternalDescriptors, name)
	}
	return nil
}

// stateName is libcontainer's name of its state.
const stateName = "state.json"

// saveState writes it, whole or not at all.
func (n *Native) saveState(state *libcontainer.State) error {
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	path := filepath.Join(n.root, state.ID, stateName)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}
