// Package execs is the processes that are exec'ed into one container: their names, their ends, and how to be rid of them.
package execs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/gate"
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

// Execution is a process that was exec'ed into a container.
type Execution struct {
	process *proc.Process
	// terminal is the slave side: it can be resized, but does not keep the terminal alive. So a client that goes
	// away, or dies, hangs it up.
	terminal *os.File
	forget   func()
	exited   chan struct{}
	exit     keeper.Exit // valid when exited is closed
	told     bool        // guarded by the mu of the table
}

// Runtime is what processes are made with.
type Runtime interface {
	Exec(ctx context.Context, id string, process json.RawMessage, io oci.IO) (oci.Process, error)
}

// Config is what a Table needs to know of its container.
type Config struct {
	ID      string
	Dir     string // of the container
	Runtime Runtime
	Foreign bool               // the runtime may put processes into namespaces that we do not know
	Created func() oci.Created // what was made
	May     func() error       // refuses what the container's state does not permit
	Log     *slog.Logger
}

// Table is what is exec'ed into one container.
type Table struct {
	of Config

	mu   sync.Mutex
	byID map[string]*Execution // nil while one is being started
}

// New is an empty table.
func New(of Config) *Table {
	return &Table{of: of, byID: map[string]*Execution{}}
}

// Start starts the process. The files are handed over, in the order stdin, stdout, stderr.
func (x *Table) Start(ctx context.Context, req keeper.Exec, streams oci.IO) (*Execution, *os.File, error) {
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
func (x *Table) reserve(id string) error {
	if err := x.of.May(); err != nil {
		return err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if e, taken := x.byID[id]; taken && (e == nil || !e.Ended()) {
		return fmt.Errorf("%w: exec %s", keeper.ErrExists, id)
	}
	left := map[bool]int{true: maxTold, false: maxUntold}
	for old, e := range x.byID {
		if e == nil || !e.Ended() {
			continue
		}
		if left[e.told]--; left[e.told] < 0 {
			delete(x.byID, old)
		}
	}
	x.byID[id] = nil
	return nil
}

func (x *Table) execute(ctx context.Context, req keeper.Exec, streams oci.IO) (*Execution, *os.File, error) {
	made, err := x.of.Runtime.Exec(ctx, x.of.ID, req.Process, streams)
	if err != nil {
		return nil, nil, err
	}
	process, err := proc.Open(made.Pid)
	if err != nil {
		closeFile(made.Console)
		return nil, nil, fmt.Errorf("hold exec'ed process: %w", err)
	}
	e := &Execution{process: process, forget: x.note(made.Pid), exited: make(chan struct{})}
	if made.Console != nil {
		if e.terminal, err = slave(made.Console); err != nil {
			x.of.Log.Warn("terminal cannot be resized", "container", x.of.ID, "error", err)
		}
	}
	return e, made.Console, nil
}

// Watch waits for the process, in the caller's goroutine. It is reaped inside the gate: while that is closed a successor
// may be about to do it.
func (e *Execution) Watch(g *gate.Gate) {
	e.process.AwaitExit()
	g.Await()
	defer g.Leave()
	status := e.process.Wait()
	e.exit = keeper.Exit{Code: status.Code, Signal: status.Signal, Unknown: status.Unknown, At: time.Now()}
	closeFile(e.terminal)
	e.forget()
	close(e.exited)
}

// Pid is its number.
func (e *Execution) Pid() int { return e.process.Pid }

// Exited is closed when it has ended.
func (e *Execution) Exited() <-chan struct{} { return e.exited }

// Ended tells whether it has.
func (e *Execution) Ended() bool {
	select {
	case <-e.exited:
		return true
	default:
		return false
	}
}

// Find finds a started exec.
func (x *Table) Find(id string) (*Execution, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if e := x.byID[id]; e != nil {
		return e, nil
	}
	return nil, fmt.Errorf("%w: exec %s", keeper.ErrNotFound, id)
}

// Pids are the processes that are waited for.
func (x *Table) Pids() []int {
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

// Running are the names of those that have not ended.
func (x *Table) Running() []string {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []string
	for id, e := range x.byID {
		if e != nil && !e.Ended() {
			out = append(out, id)
		}
	}
	return out
}

// Tell marks that the exit was told to a client.
func (x *Table) Tell(e *Execution) keeper.Exit {
	x.mu.Lock()
	defer x.mu.Unlock()
	e.told = true
	return e.exit
}

// Kill signals an exec'ed process, or with all its session and descendants: a shell's children must not survive
// the time-out of their exec.
func (x *Table) Kill(id string, signal int, all bool) error {
	e, err := x.Find(id)
	if err != nil {
		return err
	}
	sig := unix.Signal(signal)
	if !all {
		return e.process.Signal(sig)
	}
	if e.Ended() {
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

// family lists the living processes of the container that belong to the session of the leader or descend from it.
func (x *Table) family(leader int) ([]int, error) {
	pids, err := oci.Pids(x.of.Created().Cgroups)
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

// Resize sets the size of an exec's terminal.
func (x *Table) Resize(id string, width, height uint16) error {
	e, err := x.Find(id)
	if err != nil {
		return err
	}
	if e.terminal == nil {
		return fmt.Errorf("%w: exec %s has no terminal", keeper.ErrInvalid, id)
	}
	if e.Ended() {
		return nil
	}
	return stdio.SetSize(e.terminal, width, height)
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
