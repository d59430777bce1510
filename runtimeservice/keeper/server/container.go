package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/execs"
	"github.com/skiff-node/skiff/runtimeservice/keeper/gate"
	"github.com/skiff-node/skiff/runtimeservice/keeper/hold"
	"github.com/skiff-node/skiff/runtimeservice/keeper/journal"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/keeper/stdio"
	"github.com/skiff-node/skiff/runtimeservice/oci"
)

// runtime is what a container is made with: oci.Native or oci.Foreign.
type runtime interface {
	Create(ctx context.Context, req oci.Create) (oci.Created, error)
	Start(ctx context.Context, id string, died <-chan struct{}) error
	execs.Runtime
	Update(ctx context.Context, id string, resources json.RawMessage) error
	Delete(ctx context.Context, id string) error
}

// killer is a runtime whose containers are not reached by signals to their processes.
type killer interface {
	Kill(ctx context.Context, id string, signal int, all bool) error
}

// starter is a runtime that can tell later whether it has started a container.
type starter interface {
	Started(id string) (bool, error)
}

// container is one row of the table. Whoever changes its state holds op, also while its record is written and its
// event published: so events of one container are in the order of its life. mu is held for moments only.
type container struct {
	dir     string
	runtime runtime
	journal *journal.Journal
	log     *slog.Logger

	init    *proc.Process
	streams *stdio.Streams
	store   *hold.Store   // of what must outlive this keeper
	exited  chan struct{} // closed when Exited has been announced

	op sync.Mutex

	execs *execs.Table

	mu  sync.Mutex
	rec record
}

func (c *container) id() string {
	return c.rec.Create.ID
}

// row is a copy for the table.
func (c *container) row() keeper.Container {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rec.Row
}

// may refuses what the container's state does not permit.
func (c *container) may(a action) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := next(c.rec.Row.State, a)
	return err
}

// move takes the container on, if the action is permitted: change completes the row, then the record is written and
// the event published. Called with op held.
func (c *container) move(a action, at time.Time, change func(*keeper.Container)) error {
	c.mu.Lock()
	to, err := next(c.rec.Row.State, a)
	if err != nil {
		c.mu.Unlock()
		return err
	}
	c.rec.Row.State = to
	change(&c.rec.Row)
	rec := c.rec
	c.mu.Unlock()
	event := keeper.Event{ID: c.id(), State: to, Pid: rec.Row.Pid, At: at, Exit: rec.Row.Exit}
	if to != nothing {
		if err := rec.save(c.dir); err != nil {
			c.log.Error("state of a container is in memory only", "container", c.id(), "error", err)
		}
	}
	if err := c.journal.Publish(event); err != nil {
		c.log.Error("event is in memory only", "container", c.id(), "error", err)
	}
	return nil
}

// create makes the container. On failure nothing is left.
func (c *container) create(ctx context.Context, spec json.RawMessage) (err error) {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return fmt.Errorf("make directory of container: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeDir(c.dir))
		}
	}()
	if err := c.rec.save(c.dir); err != nil {
		return err
	}
	if c.streams, err = stdio.Open(c.streamsConfig()); err != nil {
		return err
	}
	stdin, stdout, stderr := c.streams.Child()
	made, err := c.runtime.Create(ctx, oci.Create{
		ID:            c.id(),
		Spec:          spec,
		Bundle:        c.rec.Create.Bundle,
		SystemdCgroup: c.rec.Create.SystemdCgroup,
		Restore:       c.rec.Create.Restore,
		IO:            oci.IO{Stdin: stdin, Stdout: stdout, Stderr: stderr, TTY: c.rec.Create.TTY},
	})
	if err != nil {
		c.streams.Finish()
		return err
	}
	c.streams.Begin(made.Console)
	return c.created(ctx, made)
}

// created records the init that waits to be started.
func (c *container) created(ctx context.Context, made oci.Created) error {
	init, err := proc.Open(made.Pid)
	if err == nil {
		c.rec.StartTime, err = proc.StartTime(made.Pid)
	}
	if err != nil {
		c.streams.Finish()
		return fmt.Errorf("hold init: %w", joinDelete(ctx, c, err))
	}
	c.init = init
	c.outlive()
	c.op.Lock()
	defer c.op.Unlock()
	c.rec.Created = made
	now := time.Now()
	return c.move(doCreate, now, func(row *keeper.Container) { row.Pid, row.CreatedAt = made.Pid, now })
}

// outlive prepares for the death of this keeper: the next one shall learn the init's end, and find the terminal and the
// stdin open. What the machine does not permit is done without.
func (c *container) outlive() {
	if err := c.init.Pin(filepath.Join(c.dir, pinName)); err != nil && !errors.Is(err, proc.ErrNoPin) {
		c.log.Warn("the exit code will not be known if the keeper dies", "container", c.id(), "error", err)
	}
	for name, files := range map[string][]*os.File{c.id(): c.streams.Pipes(), stdinOf(c.id()): c.ours()} {
		if len(files) == 0 {
			continue
		}
		if err := c.store.Put(name, files...); err != nil {
			c.log.Warn("streams will be lost if the keeper dies", "container", c.id(), "error", err)
		}
	}
}

// ours is the terminal's master, or our end of stdin.
func (c *container) ours() []*os.File {
	if f := c.streams.Ours(); f != nil {
		return []*os.File{f}
	}
	return nil
}

// stdinOf names the files of ours in the store; those of the pipes have the container's id.
func stdinOf(id string) string { return id + "/in" }

// letGo ends the holding of terminal and stdin at once, of pipes in time: a container that has exited does not miss them.
func (c *container) letGo() {
	if err := errors.Join(c.store.Drop(stdinOf(c.id())), c.store.Forget(c.id())); err != nil {
		c.log.Warn("streams of a container are held on", "container", c.id(), "error", err)
	}
}

// pinName is where the init's pidfd is mounted, in the container's directory.
const pinName = "init"

// removeDir removes a container's directory.
func removeDir(dir string) error {
	return errors.Join(proc.Unpin(filepath.Join(dir, pinName)), os.RemoveAll(dir))
}

func joinDelete(ctx context.Context, c *container, err error) error {
	if delErr := c.runtime.Delete(ctx, c.id()); delErr != nil {
		return fmt.Errorf("%w (and it cannot be removed: %w)", err, delErr)
	}
	return err
}

func (c *container) streamsConfig() stdio.Config {
	req := &c.rec.Create
	return stdio.Config{
		Dir: c.dir, LogPath: req.LogPath, TTY: req.TTY, Stdin: req.Stdin, StdinOnce: req.StdinOnce,
		Warn: func(err error) { c.log.Warn("container log", "container", req.ID, "error", err) },
		LetGo: func() {
			if err := c.store.Drop(stdinOf(req.ID)); err != nil {
				c.log.Warn("stdin does not end", "container", req.ID, "error", err)
			}
		},
	}
}

// start lets the init execute the program.
func (c *container) start(ctx context.Context) (keeper.Started, error) {
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.may(doStart); err != nil {
		return keeper.Started{}, err
	}
	if err := c.runtime.Start(ctx, c.id(), c.init.Done()); err != nil {
		return keeper.Started{}, err
	}
	now := time.Now()
	err := c.move(doStart, now, func(row *keeper.Container) { row.StartedAt = now })
	return keeper.Started{Pid: c.init.Pid, At: now}, err
}

// watch waits for the end of the init and announces it, when its log is complete.
func (c *container) watch(g *gate.Gate) {
	// It is reaped inside the gate: while that is closed a successor may be about to do it.
	c.init.AwaitExit()
	g.Await()
	c.end()
	close(c.exited)
	g.Leave()
	// Here, where nobody waits: it takes the kernel a millisecond.
	if err := proc.Unpin(filepath.Join(c.dir, pinName)); err != nil {
		c.log.Warn("exit is told, its pin stays", "container", c.id(), "error", err)
	}
}

func (c *container) end() {
	status := c.init.Wait()
	now := time.Now()
	if c.rec.Created.SharedPid {
		// Without a PID namespace of its own, what the init started outlives it.
		if err := oci.KillAll(c.rec.Created.Cgroups); err != nil {
			c.log.Error("processes survive the container's init", "container", c.id(), "error", err)
		}
	}
	kills, err := oci.OOMKills(c.rec.Created.Cgroups)
	if err != nil {
		c.log.Warn("cannot tell whether memory ran out", "container", c.id(), "error", err)
	}
	c.streams.Finish()
	c.letGo()
	exit := &keeper.Exit{
		Code: status.Code, Signal: status.Signal, Unknown: status.Unknown,
		OOMKilled: kills > 0 && status.Code != 0, At: now,
	}
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.move(itExits, now, func(row *keeper.Container) { row.Exit = exit }); err != nil {
		c.log.Error("exit of a container in the wrong state", "container", c.id(), "error", err)
	}
}

// kill signals the init, or every process.
func (c *container) kill(ctx context.Context, signal int, all bool) error {
	state := c.row().State
	if _, err := next(state, doKill); err != nil {
		return err
	}
	if k, ok := c.runtime.(killer); ok {
		return k.Kill(ctx, c.id(), signal, all)
	}
	sig := unix.Signal(signal)
	if state == keeper.Created && signal != 0 {
		sig = unix.SIGKILL // the waiting init knows no other
	}
	if sig != 0 && sig != unix.SIGKILL {
		awaitProgram(c.init.Pid)
	}
	if all {
		return c.killAll(sig)
	}
	return c.init.Signal(sig)
}

// awaitProgram waits until the init has executed the program, which it does within a moment after the start. A signal
// before that would end it as if the program had failed.
func awaitProgram(pid int) {
	executesKeeper := func() bool { // a memfd
		program, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
		return err == nil && strings.HasPrefix(program, "/memfd:"+keeper.ProcessName)
	}
	for end := time.Now().Add(execPatience); executesKeeper() && time.Now().Before(end); {
		time.Sleep(100 * time.Microsecond)
	}
}

// execPatience bounds how long an init may take to execute the program.
const execPatience = time.Second

func (c *container) killAll(sig unix.Signal) error {
	if sig == unix.SIGKILL && !c.rec.Created.SharedPid {
		return c.init.Signal(sig) // the kernel takes all others along
	}
	pids, err := oci.Pids(c.rec.Created.Cgroups)
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, pid := range pids {
		_ = unix.Kill(pid, sig)
	}
	return nil
}

// resize sets the size of the container's or an exec's terminal.
func (c *container) resize(req keeper.Resize) error {
	if req.ExecID == "" {
		return c.streams.Resize(req.Width, req.Height)
	}
	return c.execs.Resize(req.ExecID, req.Width, req.Height)
}

// remove deletes a container that has exited.
func (c *container) remove(ctx context.Context) error {
	c.op.Lock()
	defer c.op.Unlock()
	if err := c.may(doDelete); err != nil {
		return err
	}
	if err := c.runtime.Delete(ctx, c.id()); err != nil {
		return err
	}
	if err := removeDir(c.dir); err != nil {
		return fmt.Errorf("remove directory of container: %w", err)
	}
	return c.move(doDelete, time.Now(), func(row *keeper.Container) { row.Pid = 0 })
}

// recordDir is where a container's record and pipes are.
func recordDir(runDir, id string) string {
	return filepath.Join(runDir, "containers", id)
}
