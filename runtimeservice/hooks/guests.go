package hooks

import (
	"context"
	"log/slog"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Guests calls the Hooks, where there are some. The zero value calls nobody, and costs nothing.
type Guests struct {
	hooks Hooks
	log   *slog.Logger
	later sync.WaitGroup
}

// Invite sets who is called. It is called once, before the first request.
func (g *Guests) Invite(h Hooks, log *slog.Logger) { g.hooks, g.log = h, log }

// nobody says whether there is nobody to call.
func (g *Guests) nobody() bool { return g.hooks == nil || !g.hooks.Anybody() }

// Hold is Hooks.Hold.
func (g *Guests) Hold() (release func()) {
	if g.hooks == nil {
		return func() {}
	}
	return g.hooks.Hold()
}

// Ask tells of a moment. An error is a veto.
func (g *Guests) Ask(ctx context.Context, m Moment, p Pod, u *Unit) (err error) {
	if g.nobody() {
		return nil
	}
	ctx, done := runtimeservice.Step(ctx, "ask plugins: "+string(m))
	defer func() { done(err) }()
	return g.hooks.Tell(ctx, m, p, u)
}

// Inform tells of what cannot be prevented.
func (g *Guests) Inform(ctx context.Context, m Moment, p Pod, u *Unit) {
	if err := g.Ask(ctx, m, p, u); err != nil {
		id := p.ID
		if u != nil {
			id = u.ID
		}
		g.log.Warn("a plugin failed", "at", m, "id", id, "error", err)
	}
}

// InformHeld waits for participants that are joining: they may have been shown what this is the end of. It is not for
// callers that hold already.
func (g *Guests) InformHeld(ctx context.Context, m Moment, p Pod, u *Unit) {
	defer g.Hold()()
	g.Inform(ctx, m, p, u)
}

// InformLater is InformHeld without keeping the caller waiting.
func (g *Guests) InformLater(m Moment, p Pod, u *Unit) {
	if g.hooks != nil {
		g.later.Go(func() { g.InformHeld(context.Background(), m, p, u) })
	}
}

// Wait waits for what InformLater has begun.
func (g *Guests) Wait() { g.later.Wait() }

// Adjust is Hooks.Adjust.
func (g *Guests) Adjust(ctx context.Context, p Pod, u Unit, s *specs.Spec) (err error) {
	if g.nobody() {
		return nil
	}
	ctx, done := runtimeservice.Step(ctx, "ask plugins: create container")
	defer func() { done(err) }()
	return g.hooks.Adjust(ctx, p, u, s)
}

// Resize is Hooks.Resize.
func (g *Guests) Resize(ctx context.Context, p Pod, u Unit, r runtimeservice.Resources) (_ runtimeservice.Resources, err error) {
	if g.nobody() {
		return r, nil
	}
	ctx, done := runtimeservice.Step(ctx, "ask plugins: update container")
	defer func() { done(err) }()
	return g.hooks.Resize(ctx, p, u, r)
}

// ResizePod is Hooks.ResizePod.
func (g *Guests) ResizePod(ctx context.Context, p Pod, overhead, resources *runtimeservice.Resources) error {
	if g.nobody() {
		return nil
	}
	return g.hooks.ResizePod(ctx, p, overhead, resources)
}
