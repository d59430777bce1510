// Package gate holds all changes up for a moment, so that the state of a process can be handed over whole.
package gate

import (
	"sync"
	"time"
)

// Gate is what every change passes: while it is closed nothing begins, and it closes when nothing is under way.
//
//	open ──close──► closing ──the last one leaves──► closed ──open──► open
//	                   └───── patience is over ─────────────────────►
type Gate struct {
	mu     sync.Mutex
	inside int
	shut   bool
	empty  chan struct{} // closed when the last one leaves while it is shut
	change chan struct{} // closed when shut changes
}

// New is a gate that is open.
func New() *Gate {
	return &Gate{change: make(chan struct{})}
}

// Enter passes the gate, unless it is closing or closed. Leave must follow.
func (g *Gate) Enter() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		return false
	}
	g.inside++
	return true
}

// Await passes the gate as soon as it is open. Leave must follow.
func (g *Gate) Await() {
	for !g.Enter() {
		<-g.Changed(true)
	}
}

// Leave is described with Enter.
func (g *Gate) Leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.inside == 0 && g.shut {
		close(g.empty)
	}
}

// Changed is closed when the gate is, or already was, not as given.
func (g *Gate) Changed(shut bool) <-chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut != shut {
		done := make(chan struct{})
		close(done)
		return done
	}
	return g.change
}

// Close shuts the gate and waits until nobody is inside. It reports false, the gate being shut still, when that takes too
// long. Either way Open must follow.
func (g *Gate) Close(patience time.Duration) bool {
	g.mu.Lock()
	g.shut = true
	close(g.change)
	g.change = make(chan struct{})
	g.empty = make(chan struct{})
	if g.inside == 0 {
		close(g.empty)
	}
	empty := g.empty
	g.mu.Unlock()
	select {
	case <-empty:
		return true
	case <-time.After(patience):
		return false
	}
}

// Open is described with Close.
func (g *Gate) Open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = false
	close(g.change)
	g.change = make(chan struct{})
}
