package engine

import (
	"fmt"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/bundle"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/session"
)

// finder lets sessions find what they are in.
type finder struct{ *core }

// Running implements session.Runtime.
func (f finder) Running(id string) (session.Container, error) {
	o, err := f.units.Find(id)
	if err != nil {
		return session.Container{}, err
	}
	rec := o.Record()
	if rec.Phase != lifecycle.Running {
		return session.Container{}, fmt.Errorf("container %s is %s: %w", rec.Container.ID, rec.Phase, runtimeservice.ErrState)
	}
	process, err := bundle.Process(f.containerDir(rec.Container.ID))
	return session.Container{
		ID: rec.Container.ID, Process: process, Ended: o.Ended,
		Stdin: rec.Container.Config.Stdin, TTY: rec.Container.Config.TTY,
	}, err
}

// NetworkOf implements session.Runtime.
func (f finder) NetworkOf(sandboxID string) (string, error) {
	o, err := f.boxes.Find(sandboxID)
	if err != nil {
		return "", err
	}
	rec := o.Record()
	if rec.Phase != lifecycle.Ready {
		return "", fmt.Errorf("sandbox %s is %s: %w", rec.Sandbox.ID, rec.Phase, runtimeservice.ErrState)
	}
	return rec.Sandbox.NetNS, nil
}

// Keeper implements session.Runtime.
func (f finder) Keeper() (session.Keeper, error) { return f.link.Get() }
