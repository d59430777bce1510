package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/keeper/stdio"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// How many ended execs a container remembers: so many whose exit was told, so that a late kill hears that it is late,
// and so many that somebody may yet wait for.
const (
	maxTold   = 8
	maxUntold = 64
)

// execution is a process that was exec'ed into a container.
type execution struct {
	process *proc.Process
	// terminal is the slave side: it can be resized, but does not keep the terminal alive. So a client that goes
	// away, or dies, hangs it up.
	terminal *os.File
	forget   func()
	exited   chan struct{}
	exit     keeper.Exit // valid when exited is closed
	told     bool        // guarded by the mu of execs
}

// execs are what is exec'ed into one container.
type execs struct {
	of *container

	mu   sync.Mutex
	byID map[string]*execution // nil while one is being started
}

// start starts the process. The files are handed over, in the order stdin, stdout, stderr.
func (x *execs) start(ctx context.Context, req keeper.Exec, streams oci.IO) (*execution, *os.File, error) {
	if req.ExecID == "" {
		return nil, nil, fmt.Errorf("%w: execID is empty", keeper.ErrInvalid)
	}
	if err := x.reserve(req.ExecID); err != nil {
		return nil, nil, err
	}
	e, master, err := x.execute(ctx, req, streams)
	x.mu.Lock()
	defer x.mu.Unlock()
	if err != nil {
		delete(x.byID, req.ExecID)
		return nil, nil, err
	}
	x.byID[req.ExecID] = e
	return e, master, nil
}

// reserve takes the name, that of an ended exec too, and forgets ended ones beyond the bounds.
func (x *execs) reserve(id string) error {
	if err := x.of.may(doExec); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if e, taken := x.byID[id]; taken && (e == nil || !e.ended()) {
		return fmt.Errorf("%w: exec %s", keeper.ErrExists, id)
	}
	left := map[bool]int{true: maxTold, false: maxUntold}
	for old, e := range x.byID {
		if e == nil || !e.ended() {
			continue
		}
		if left[e.told]--; left[e.told] < 0 {
			delete(x.byID, old)
		}
	}
	x.byID[id] = nil
	return nil
}

func (x *execs) execute(ctx context.Context, req keeper.Exec, streams oci.IO) (*execution, *os.File, error) {
	made, err := x.of.runtime.Exec(ctx, x.of.id(), req.Process, streams)
	if err != nil {
		return nil, nil, err
	}
	process, err := proc.Open(made.Pid)
	if err != nil {
		closeFile(made.Console)
		return nil, nil, fmt.Errorf("hold exec'ed process: %w", err)
	}
	e := &execution{process: process, forget: x.note(made.Pid), exited: make(chan struct{})}
	if made.Console != nil {
		if e.terminal, err = slave(made.Console); err != nil {
			x.of.log.Warn("terminal cannot be resized", "container", x.of.id(), "error", err)
		}
	}
	return e, made.Console, nil
}

// watch waits for the process, in the caller's goroutine.
func (e *execution) watch() {
	status := e.process.Wait()
	e.exit = keeper.Exit{Code: status.Code, Signal: status.Signal, Unknown: status.Unknown, At: time.Now()}
	closeFile(e.terminal)
	e.forget()
	close(e.exited)
}

func (e *execution) ended() bool {
	select {
	case <-e.exited:
		return true
	default:
		return false
	}
}

// find finds a started exec.
func (x *execs) find(id string) (*execution, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.byID[id]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("%w: exec %s", keeper.ErrNotFound, id)
}

// pids are the processes that are waited for.
func (x *execs) pids() []int {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []int
	for _, e := range x.byID {
		if e != nil {
			out = append(out, e.process.Pid)
		}
	}
	return out
}

// tell marks that the exit was told to a client.
func (x *execs) tell(e *execution) keeper.Exit {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.told = true
	return e.exit
}

// kill signals an exec'ed process, or with all its session and descendants: a shell's children must not survive
// the time-out of their exec.
func (x *execs) kill(id string, signal int, all bool) error {
	e, err := x.find(id)
	if err != nil {
		return err
	}
	sig := unix.Signal(signal)
	if !all {
		return e.process.Signal(sig)
	}
	if e.ended() {
		return proc.ErrGone
	}
	// The exec'ed process leads a session (nsexec calls setsid). A few rounds, as they may fork while we look; the
	// leader last, so that its number stays taken while others are looked for by it.
	for range 5 {
		family, err := x.family(e.process.Pid)
		if err != nil {
			return err
		}
		for _, pid := range family {
			_ = unix.Kill(pid, sig)
		}
		if len(family) == 0 || sig != unix.SIGKILL {
			break
		}
	}
	if err := e.process.Signal(sig); !errors.Is(err, proc.ErrGone) {
		return err
	}
	return nil
}

// noting tells whether execs must be written down: in a shared PID namespace, and under a foreign runtime, whose
// processes may be in no namespace that we know.
func (x *execs) noting() bool {
	return x.of.rec.Created.SharedPid || x.of.rec.Create.Runtime.Path != ""
}

// noteDir has a file for each exec that is noted, named by its pid and start time.
func (x *execs) noteDir() string {
	return filepath.Join(x.of.dir, "execs")
}

// note writes an exec down for the next keeper, and returns how to forget it.
func (x *execs) note(pid int) (forget func()) {
	if !x.noting() {
		return func() {}
	}
	start, err := proc.StartTime(pid)
	if err != nil {
		return func() {} // it has exited
	}
	path := filepath.Join(x.noteDir(), fmt.Sprintf("%d-%d", pid, start))
	if err = os.MkdirAll(x.noteDir(), 0o700); err == nil {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		x.of.log.Warn("exec will run on if the keeper dies", "container", x.of.id(), "error", err)
	}
	return func() { _ = os.Remove(path) }
}

// family lists the living processes of the container that belong to the session of the leader or descend from it.
func (x *execs) family(leader int) ([]int, error) {
	pids, err := oci.Pids(x.of.rec.Created.Cgroups)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	parents := map[int]int{}
	member := map[int]bool{leader: true}
	for _, pid := range pids {
		session, parent, err := proc.Session(pid)
		if err != nil {
			continue
		}
		parents[pid] = parent
		if session == leader {
			member[pid] = true
		}
	}
	var out []int
	for _, pid := range pids {
		up := pid
		for up > 1 && !member[up] {
			up = parents[up]
		}
		if member[up] && pid != leader && !proc.Zombie(pid) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// resize sets the size of the container's or an exec's terminal.
func (c *container) resize(req keeper.Resize) error {
	if req.ExecID == "" {
		return c.streams.Resize(req.Width, req.Height)
	}
	e, err := c.execs.find(req.ExecID)
	if err != nil {
		return err
	}
	if e.terminal == nil {
		return fmt.Errorf("%w: exec %s has no terminal", keeper.ErrInvalid, req.ExecID)
	}
	if e.ended() {
		return nil
	}
	return stdio.SetSize(e.terminal, req.Width, req.Height)
}

// slave opens the other side of a terminal through its master, so that no path of the container is trusted.
func slave(master *os.File) (*os.File, error) {
	raw, err := master.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd, openErr := -1, unix.Errno(0)
	if err := raw.Control(func(m uintptr) {
		r, _, errno := unix.Syscall(unix.SYS_IOCTL, m, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		fd, openErr = int(r), errno
	}); err != nil {
		return nil, err
	}
	if openErr != 0 {
		return nil, fmt.Errorf("open slave of terminal: %w", openErr)
	}
	return os.NewFile(uintptr(fd), "terminal"), nil
}

func closeFile(f *os.File) {
	if f != nil {
		f.Close()
	}
}
