package hooks

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

// guest notes what it is told, and how it is held.
type guest struct {
	mu      sync.Mutex
	there   bool
	noted   []string
	failure error
	joining sync.RWMutex // written while somebody joins
}

func (g *guest) note(s string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.noted = append(g.noted, s)
	return g.failure
}

func (g *guest) Anybody() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.there
}

func (g *guest) Hold() func() {
	g.joining.RLock()
	return sync.OnceFunc(g.joining.RUnlock)
}

func (g *guest) Tell(_ context.Context, m Moment, p Pod, u *Unit) error {
	if u != nil {
		return g.note(string(m) + " " + u.ID)
	}
	return g.note(string(m) + " " + p.ID)
}
func (g *guest) Adjust(context.Context, Pod, Unit, *specs.Spec) error { return g.note("adjust") }
func (g *guest) Resize(_ context.Context, _ Pod, _ Unit, r runtimeservice.Resources) (runtimeservice.Resources, error) {
	r.CPUShares *= 2
	return r, g.note("resize")
}
func (g *guest) ResizePod(context.Context, Pod, *runtimeservice.Resources, *runtimeservice.Resources) error {
	return g.note("resize pod")
}

func TestNobody(t *testing.T) {
	pod, unit := Pod{}, Unit{}
	for name, g := range map[string]*Guests{"no hooks": {}, "nobody there": func() *Guests {
		g := &Guests{}
		g.Invite(&guest{failure: errors.New("called")}, slog.Default())
		return g
	}()} {
		g.Hold()()
		r, err := g.Resize(t.Context(), pod, unit, runtimeservice.Resources{CPUShares: 5})
		if err = errors.Join(err, g.Ask(t.Context(), RunSandbox, pod, nil), g.Adjust(t.Context(), pod, unit, nil), g.ResizePod(t.Context(), pod, nil, nil)); err != nil || r.CPUShares != 5 {
			t.Errorf("%s: %v, %v", name, r, err)
		}
		g.InformLater(StopContainer, pod, &unit)
		g.Wait()
	}
}

// TestJoining: who joins while something ends is told of the end when it has joined.
func TestJoining(t *testing.T) {
	h := &guest{}
	g := &Guests{}
	g.Invite(h, slog.New(slog.DiscardHandler))
	h.joining.Lock() // somebody begins to join, and has been shown the container
	g.InformLater(StopContainer, Pod{}, &Unit{Container: runtimeservice.Container{ID: "c"}})
	h.mu.Lock()
	h.there = true
	h.mu.Unlock()
	h.joining.Unlock()
	g.Wait()
	g.InformHeld(t.Context(), StopSandbox, Pod{Sandbox: runtimeservice.Sandbox{ID: "p"}}, nil)
	if want := []string{"stop container c", "stop sandbox p"}; !slices.Equal(h.noted, want) {
		t.Errorf("%v", h.noted)
	}
}

func TestVeto(t *testing.T) {
	h := &guest{there: true, failure: errors.New("no")}
	g := &Guests{}
	g.Invite(h, slog.New(slog.DiscardHandler))
	if err := g.Ask(t.Context(), StartContainer, Pod{}, &Unit{}); err == nil {
		t.Error("a veto was not heard")
	}
	g.Inform(t.Context(), StopContainer, Pod{}, &Unit{}) // is logged, and that is all
}
