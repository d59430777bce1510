// Package flight lets a request that is repeated while the first still runs join it.
package flight

import (
	"context"
	"sync"
	"time"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Group is the requests in flight, by key. The zero value is ready.
type Group struct {
	wait    sync.WaitGroup
	mu      sync.Mutex
	running map[string]*flight
}

type flight struct {
	done chan struct{}
	id   string
	err  error
}

// Join runs fn, or waits for the run of the same key. The run does not end when its caller leaves, only after limit:
// the caller will come back and ask again.
func (g *Group) Join(ctx context.Context, key string, limit time.Duration, fn func(context.Context) (string, error)) (string, error) {
	g.mu.Lock()
	f, ok := g.running[key]
	if !ok {
		if g.running == nil {
			g.running = map[string]*flight{}
		}
		f = &flight{done: make(chan struct{})}
		g.running[key] = f
		g.wait.Go(func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
			defer cancel()
			f.id, f.err = fn(ctx)
			g.mu.Lock()
			delete(g.running, key)
			g.mu.Unlock()
			close(f.done)
		})
	}
	g.mu.Unlock()
	done := func(error) {}
	if ok {
		_, done = runtimeservice.Step(ctx, "wait for the identical call in flight")
	}
	defer done(nil)
	select {
	case <-f.done:
		return f.id, f.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// Wait waits until nothing is in flight, at most for patience, and says whether that is so.
func (g *Group) Wait(patience time.Duration) bool {
	done := make(chan struct{})
	go func() { g.wait.Wait(); close(done) }()
	select {
	case <-done:
		return true
	case <-time.After(patience):
		return false
	}
}
