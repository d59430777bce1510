package session

import (
	"fmt"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/bundle"
	"github.com/skiff-node/skiff/runtimeservice/lifecycle"
	"github.com/skiff-node/skiff/runtimeservice/link"
	"github.com/skiff-node/skiff/runtimeservice/record"
)

// Finder is the Runtime of an engine: its records, and its link to the keeper.
type Finder struct {
	View record.View
	Link *link.Link
}

// Running implements Runtime.
func (f Finder) Running(id string) (Container, error) {
	o, err := f.View.Members.Find(id)
	if err != nil {
		return Container{}, err
	}
	rec := o.Record()
	if rec.Phase != lifecycle.Running {
		return Container{}, fmt.Errorf("container %s is %s: %w", rec.Container.ID, rec.Phase, runtimeservice.ErrState)
	}
	process, err := bundle.Process(f.View.Bundle(rec.Container.ID))
	return Container{
		ID: rec.Container.ID, Process: process, Ended: o.Ended,
		Stdin: rec.Container.Config.Stdin, TTY: rec.Container.Config.TTY,
	}, err
}

// NetworkOf implements Runtime.
func (f Finder) NetworkOf(sandboxID string) (string, error) {
	o, err := f.View.Boxes.Find(sandboxID)
	if err != nil {
		return "", err
	}
	rec := o.Record()
	if rec.Phase != lifecycle.Ready {
		return "", fmt.Errorf("sandbox %s is %s: %w", rec.Sandbox.ID, rec.Phase, runtimeservice.ErrState)
	}
	return rec.Sandbox.NetNS, nil
}

// Keeper implements Runtime.
func (f Finder) Keeper() (Keeper, error) { return f.Link.Get() }
