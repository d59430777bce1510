package execs

import (
	"errors"
	"fmt"

	"github.com/skiff-node/skiff/runtimeservice/keeper/gate"
	"github.com/skiff-node/skiff/runtimeservice/keeper/handover"
	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
)

// State is what a successor needs to know. The gate is closed.
func (x *Table) State() ([]handover.Exec, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	var out []handover.Exec
	for id, e := range x.byID {
		row := handover.Exec{ID: id, Pid: e.process.Pid, Told: e.told}
		if e.Ended() {
			row.Exit = &e.exit
		} else if e.terminal != nil {
			var err error
			if row.Terminal, err = handover.PointTo(e.terminal); err != nil {
				return nil, err
			}
		}
		out = append(out, row)
	}
	return out, nil
}

// Restore takes the execs over.
func (x *Table) Restore(rows []handover.Exec, g *gate.Gate, spawn func(func())) error {
	var errs []error
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, row := range rows {
		e := &Execution{forget: x.forget(row.Pid), exited: make(chan struct{}), told: row.Told}
		if row.Terminal != nil {
			e.terminal = handover.Inherited(*row.Terminal, "terminal")
		}
		x.byID[row.ID] = e
		if row.Exit != nil {
			e.process, e.exit = proc.Ended(row.Pid), *row.Exit
			close(e.exited)
			continue
		}
		var err error
		if e.process, err = proc.Open(row.Pid); err != nil {
			errs = append(errs, fmt.Errorf("take over exec %s: %w", row.ID, err))
			delete(x.byID, row.ID)
			continue
		}
		spawn(func() { e.Watch(g) })
	}
	return errors.Join(errs...)
}
