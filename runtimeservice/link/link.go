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
	TakeOver(ctx context.Context) error
	Shutdown(ctx context.Context) error
	Close() error
}

// Link holds the connection to the keeper, and why there is none.
type Link struct {
	Connect func(ctx context.Context) (Keeper, error)

	opening sync.Mutex // held while connecting

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

// maxTries is how often Do calls, the first time included.
const maxTries = 5

// Do calls fn with the keeper. When that is lost meanwhile, Do connects to the next one, starting it if need be, and calls
// fn again: fn must bear to be repeated though it may have been carried out.
func (l *Link) Do(ctx context.Context, fn func(Keeper) error) error {
	for try := 1; ; try++ {
		k, err := l.Get()
		if err == nil {
			err = fn(k)
		}
		if !errors.Is(err, keeper.ErrLost) || try == maxTries || ctx.Err() != nil {
			return err
		}
		if openErr := l.replace(ctx, k); openErr != nil && !errors.Is(openErr, keeper.ErrLost) {
			return errors.Join(err, openErr)
		}
	}
}

// replace connects anew unless somebody has done so since k was got.
func (l *Link) replace(ctx context.Context, k Keeper) error {
	l.opening.Lock()
	defer l.opening.Unlock()
	if now, err := l.Get(); err == nil && now != k {
		return nil
	}
	_, err := l.open(ctx)
	return err
}

// Open connects anew.
func (l *Link) Open(ctx context.Context) (Keeper, error) {
	l.opening.Lock()
	defer l.opening.Unlock()
	return l.open(ctx)
}

func (l *Link) open(ctx context.Context) (Keeper, error) {
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
