package engine

import (
	"context"
	"log/slog"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice/hooks"
	"github.com/skiff-node/skiff/runtimeservice/record"
)

// Host is what those who take part may see and change.
type Host struct {
	record.View
	*core
}

// Host is the engine as its guests see it.
func (e *Engine) Host() Host { return Host{View: e.core.view, core: e.core} }

// Invite has h take part from now on. It is called once, after Recover and before the first request.
func (e *Engine) Invite(h hooks.Hooks, log *slog.Logger) { e.core.guests.Invite(h, log) }

// inform tells who takes part of what happened to a container.
func (c *core) inform(ctx context.Context, m hooks.Moment, o *container) {
	pod, unit := c.view.UnitOf(o.Record())
	c.guests.Inform(ctx, m, pod, unit)
}

// adjust has those who take part change the specification of a container that is being made.
func (c *core) adjust(ctx context.Context, o *container, s *specs.Spec) error {
	pod, unit := c.view.UnitOf(o.Record())
	before := s.Linux.CgroupsPath
	if err := c.guests.Adjust(ctx, pod, *unit, s); err != nil {
		return err
	}
	if after := s.Linux.CgroupsPath; after != before && filepath.IsAbs(after) {
		o.Set(func(r *containerRecord) { r.Cgroup = filepath.Clean(after) })
	}
	return nil
}
