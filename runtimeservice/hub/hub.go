// Package hub hands events to watchers.
package hub

import (
	"context"
	"errors"
	"sync"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Hub hands events to watchers. Each has a queue of its own, so that a slow one delays nobody. The zero value is ready.
type Hub struct {
	mu       sync.Mutex
	watchers map[*watcher]struct{}
}

type watcher struct {
	wake   chan struct{} // capacity 1
	mu     sync.Mutex
	queue  []runtimeservice.Event
	behind bool
}

// maxQueue bounds what a watcher that does not read can pile up.
const maxQueue = 10000

var errSlow = errors.New("the watcher is too slow: events were dropped; list and watch again")

// Publish makes the event only when somebody watches.
func (h *Hub) Publish(event func() runtimeservice.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.watchers) == 0 {
		return
	}
	e := event()
	for w := range h.watchers {
		w.push(e)
	}
}

func (w *watcher) push(e runtimeservice.Event) {
	w.mu.Lock()
	if len(w.queue) >= maxQueue {
		w.behind = true
	} else {
		w.queue = append(w.queue, e)
	}
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() ([]runtimeservice.Event, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	events := w.queue
	w.queue = nil
	if w.behind {
		return nil, errSlow
	}
	return events, nil
}

// Watch implements runtimeservice.Events.
func (h *Hub) Watch(ctx context.Context, fn func(runtimeservice.Event) error) error {
	w := &watcher{wake: make(chan struct{}, 1)}
	h.mu.Lock()
	if h.watchers == nil {
		h.watchers = map[*watcher]struct{}{}
	}
	h.watchers[w] = struct{}{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.watchers, w)
		h.mu.Unlock()
	}()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-w.wake:
		}
		events, err := w.take()
		if err != nil {
			return err
		}
		for _, e := range events {
			if err := fn(e); err != nil {
				return err
			}
		}
	}
}
