// Package link is the runtime's connection to the keeper, which may break and be made anew.
package link

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"os"
	"sync"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// Keeper is what the engine needs of the keeper's client (keeper.Client).
type Keeper interface {
	Create(ctx context.Context, req keeper.Create) (keeper.Started, error)
	Start(ctx context.Context, id string) (keeper.Started, error)
	Kill(ctx context.Context, req keeper.Kill) error
	Delete(ctx context.Context, id string) error
	Update(ctx context.Context, req keeper.Update) error
	Checkpoint(ctx context.Context, req keeper.Checkpoint) error
	Exec(ctx context.Context, req keeper.Exec, files ...*os.File) (keeper.ExecReply, *os.File, error)
	Wait(ctx context.Context, t keeper.Target) (keeper.Exit, error)
	Attach(ctx context.Context, req keeper.Attach, files ...*os.File) error
	Resize(ctx context.Context, req keeper.Resize) error
	ReopenLog(ctx context.Context, id string) error
	List(ctx context.Context) (keeper.Listing, error)
	Events(ctx context.Context, after uint64) iter.Seq2[keeper.Event, error]
	Shutdown(ctx context.Context) error
	Close() error
}

// Link holds the connection to the keeper, and why there is none.
type Link struct {
	Connect func(ctx context.Context) (Keeper, error)
	mu      sync.Mutex
	keeper  Keeper
	err     error
	retired bool
}

var errNoKeeper = errors.New("the keeper is not connected yet")

// Get is the keeper, or why it cannot be reached.
func (l *Link) Get() (Keeper, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.err != nil:
		return nil, l.err
	case l.keeper == nil:
		return nil, errNoKeeper
	}
	return l.keeper, nil
}

// Open connects anew.
func (l *Link) Open(ctx context.Context) (Keeper, error) {
	if l.isRetired() {
		return nil, errRetired
	}
	k, err := l.Connect(ctx)
	if err != nil {
		err = fmt.Errorf("connect to the keeper: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keeper != nil {
		_ = l.keeper.Close()
	}
	l.keeper, l.err = k, err
	return k, err
}

// Retire makes every later Open fail: the keeper is about to be ended, and must not be started again.
func (l *Link) Retire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.retired = true
}

func (l *Link) isRetired() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.retired
}

var errRetired = errors.New("the keeper is being ended")

// Close ends the connection; the keeper lives on.
func (l *Link) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keeper == nil {
		return nil
	}
	err := l.keeper.Close()
	l.keeper = nil
	return err
}
