package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/keeper/stdio"
	"github.com/skiff-node/skiff/runtimeservice/keeper/wire"
)

// recovery takes over from an earlier keeper.
type recovery struct{ *Server }

// recover reads the records that an earlier keeper left. A container that lives is taken over: its pipes are opened by
// name, its terminal and stdin come from the store, and its exit is learned through its pinned pidfd, also when it was
// meanwhile. Without a pin (before Linux 6.15) the code of one that died meanwhile is unknown. One that was being created, or
// whose record cannot be read, is swept; execs are ended, as nobody can wait for them.
func (s recovery) recover() {
	held, err := s.store.Files()
	if err != nil {
		s.cfg.Log.Error("cannot look for files of an earlier keeper", "error", err)
	}
	entries, err := os.ReadDir(filepath.Join(s.cfg.RunDir, "containers"))
	if err != nil {
		s.cfg.Log.Error("cannot look for containers of an earlier keeper", "error", err)
	}
	known := map[string]bool{}
	if s.cfg.State != nil {
		for _, row := range s.cfg.State.Containers {
			id, err := s.carry(row)
			if err != nil {
				s.cfg.Log.Error("cannot take over a container", "container", id, "error", err)
			}
			known[id] = true
			for _, name := range []string{id, stdinOf(id)} {
				wire.CloseAll(held[name])
				delete(held, name)
			}
		}
	}
	for _, e := range entries {
		if known[e.Name()] {
			continue
		}
		known[e.Name()] = true
		if err := s.readmit(e.Name(), held); err != nil {
			s.cfg.Log.Error("cannot take over a container", "container", e.Name(), "error", err)
		}
	}
	states, err := os.ReadDir(filepath.Join(s.cfg.RunDir, "runc"))
	if err != nil {
		s.cfg.Log.Error("cannot look for state of an earlier keeper", "error", err)
	}
	for _, e := range states {
		if !known[e.Name()] {
			if err := s.native.Sweep(e.Name()); err != nil {
				s.cfg.Log.Error("cannot sweep a container", "container", e.Name(), "error", err)
			}
		}
	}
	for name, files := range held {
		// Nobody has asked for it: its container is gone.
		wire.CloseAll(files)
		if err := s.store.Drop(name); err != nil {
			s.cfg.Log.Error("cannot let go of an earlier keeper's files", "name", name, "error", err)
		}
	}
}

// readmit takes over a container of a keeper that has died, or sweeps what is left of it.
func (s recovery) readmit(id string, held map[string][]*os.File) error {
	dir := recordDir(s.cfg.RunDir, id)
	rec, err := loadRecord(dir)
	if err != nil || rec.Create.ID != id {
		return errors.Join(s.native.Sweep(id), removeDir(dir))
	}
	if rec.Row.State == nothing {
		return errors.Join(s.sweep(s.newContainer(rec)), removeDir(dir))
	}
	with := carried{}
	if rec.Row.State != keeper.Exited {
		with.ours = regain(held, id)
	}
	return s.admit(rec, with)
}

// admit puts a container of an earlier keeper into the table.
func (s recovery) admit(rec record, with carried) (err error) {
	c := s.newContainer(rec)
	if err := c.execs.Restore(with.execs, s.gate, s.work.Go); err != nil {
		s.cfg.Log.Error("lost execs", "container", c.id(), "error", err)
	}
	if rec.Row.State == keeper.Exited {
		close(c.exited)
		c.streams, err = stdio.Open(stdio.Config{TTY: true}) // ended: only to refuse
		if err != nil {
			return err
		}
		c.streams.Finish()
		s.mu.Lock()
		s.table[c.id()] = c
		s.mu.Unlock()
		return nil
	}
	if c.streams, err = stdio.Resume(c.streamsConfig(), with.ours, with.peers...); err != nil {
		return fmt.Errorf("resume streams: %w", err)
	}
	if !with.upgrade {
		if err := c.execs.KillRemnants(); err != nil {
			s.cfg.Log.Error("execs of an earlier keeper may run on", "container", c.id(), "error", err)
		}
	}
	if err := c.noticeStart(); err != nil {
		return err
	}
	if c.init, err = c.findInit(); err == nil {
		s.add(c)
		return nil
	}
	return s.lost(c)
}

// noticeStart makes good for a keeper that was killed after it had let the init go on, and before it wrote that down: a
// program must not be run twice.
func (c *container) noticeStart() error {
	c.op.Lock()
	defer c.op.Unlock()
	runtime, can := c.runtime.(starter)
	if c.rec.Row.State != keeper.Created || !can {
		return nil
	}
	if started, err := runtime.Started(c.id()); err != nil || !started {
		return err
	}
	now := time.Now()
	return c.move(doStart, now, func(row *keeper.Container) { row.StartedAt = now })
}

// findInit holds the init, also one that has exited where that can be known.
func (c *container) findInit() (*proc.Process, error) {
	if p, err := proc.OpenPinned(c.rec.Created.Pid, filepath.Join(c.dir, pinName)); err == nil {
		return p, nil
	}
	return holdSame(c.rec.Created.Pid, c.rec.StartTime)
}

// regain gets a container's terminal or stdin back. Nil when there is none.
func regain(held map[string][]*os.File, id string) *os.File {
	wire.CloseAll(held[id]) // it opens its pipes by name
	delete(held, id)
	files := held[stdinOf(id)]
	delete(held, stdinOf(id))
	if len(files) == 0 {
		return nil
	}
	return files[0]
}

// sweep removes what a container has left that was being created.
func (s recovery) sweep(c *container) error {
	if c.runtime == runtime(s.native) {
		return s.native.Sweep(c.id())
	}
	return c.runtime.Delete(context.Background(), c.id())
}

// holdSame holds the process only if it is the one that was recorded.
func holdSame(pid int, start uint64) (*proc.Process, error) {
	p, err := proc.Open(pid)
	if err != nil {
		return nil, err
	}
	if now, err := proc.StartTime(pid); err != nil || now != start {
		return nil, proc.ErrGone
	}
	return p, nil
}

// lost records the exit of a container that died while there was no keeper.
func (s recovery) lost(c *container) error {
	c.streams.Finish()
	c.letGo()
	close(c.exited)
	s.mu.Lock()
	s.table[c.id()] = c
	s.mu.Unlock()
	c.op.Lock()
	defer c.op.Unlock()
	now := time.Now()
	return c.move(itExits, now, func(row *keeper.Container) {
		row.Exit = &keeper.Exit{Code: 255, Unknown: true, At: now}
	})
}

// reapOrphans reaps processes that were given to us as child subreaper: what a foreign runtime or a container without
// a PID namespace of its own leaves behind.
func (s *Server) reapOrphans(ctx context.Context) {
	if err := proc.ReapOrphans(ctx, s.owns, nil); err != nil {
		s.cfg.Log.Error("orphans are not reaped", "error", err)
	}
}

// owns tells whether we wait for the process ourselves.
func (s *Server) owns(pid int) bool {
	return slices.ContainsFunc(s.containers(), func(c *container) bool {
		return c.row().Pid == pid || slices.Contains(c.execs.Pids(), pid)
	})
}
