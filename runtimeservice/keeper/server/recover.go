package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
	"github.com/skiff-node/skiff/runtimeservice/keeper/stdio"
)

// recover reads the records that an earlier keeper left. A container that lives is taken over as far as possible: its
// pipes are opened by name, and its exit is learned through its pidfd. One that died meanwhile exits with an unknown
// code. One that was being created, or whose record cannot be read, is swept.
func (s *Server) recover() {
	entries, err := os.ReadDir(filepath.Join(s.cfg.RunDir, "containers"))
	if err != nil {
		s.cfg.Log.Error("cannot look for containers of an earlier keeper", "error", err)
	}
	known := map[string]bool{}
	for _, e := range entries {
		known[e.Name()] = true
		if err := s.readmit(e.Name()); err != nil {
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
}

func (s *Server) readmit(id string) error {
	dir := recordDir(s.cfg.RunDir, id)
	rec, err := loadRecord(dir)
	if err != nil || rec.Create.ID != id {
		return errors.Join(s.native.Sweep(id), os.RemoveAll(dir))
	}
	c := s.newContainer(rec)
	if rec.Row.State == nothing {
		return errors.Join(s.sweep(c), os.RemoveAll(dir))
	}
	if rec.Row.State == keeper.Exited {
		close(c.exited)
		c.streams, err = stdio.Open(stdio.Config{TTY: true}) // ended: only to refuse
		if err != nil {
			return err
		}
		c.streams.Finish()
		s.mu.Lock()
		s.table[id] = c
		s.mu.Unlock()
		return nil
	}
	if c.streams, err = stdio.Resume(c.streamsConfig()); err != nil {
		return fmt.Errorf("resume streams: %w", err)
	}
	if c.init, err = holdSame(rec.Created.Pid, rec.StartTime); err == nil {
		s.add(c)
		return nil
	}
	return s.lost(c)
}

// sweep removes what a container has left that was being created.
func (s *Server) sweep(c *container) error {
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
func (s *Server) lost(c *container) error {
	c.streams.Finish()
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

// orphanGrace is how long an unknown child that has exited is left to whoever may be waiting for it.
const orphanGrace = 2 * time.Second

// reapOrphans reaps processes that were given to us as child subreaper: what a foreign runtime or a container without
// a PID namespace of its own leaves behind. libcontainer and os/exec wait for children of their own, within
// milliseconds; so only a child that was a zombie twice, a grace apart, is taken for an orphan.
func (s *Server) reapOrphans(ctx context.Context) {
	signals, stop := notifyChild()
	defer stop()
	seen := map[int]bool{}
	for {
		if len(seen) == 0 {
			select {
			case <-ctx.Done():
				return
			case <-signals:
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(orphanGrace):
		}
		seen = proc.ReapAgain(seen, s.owned())
	}
}

// owned are the processes that we wait for ourselves.
func (s *Server) owned() map[int]bool {
	own := map[int]bool{}
	for _, c := range s.containers() {
		c.mu.Lock()
		own[c.rec.Row.Pid] = true
		for _, e := range c.execs {
			if e != nil {
				own[e.process.Pid] = true
			}
		}
		c.mu.Unlock()
	}
	return own
}
