package link

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// fake is a keeper that is lost when it is asked for so many calls.
type fake struct {
	Keeper
	number int64
	calls  atomic.Int64
}

func (f *fake) Delete(context.Context, string) error {
	if f.calls.Add(-1) < 0 {
		return fmt.Errorf("delete: %w", keeper.ErrLost)
	}
	return nil
}

func (f *fake) Close() error { return nil }

func TestDoRepeatsWithTheNextKeeper(t *testing.T) {
	var opened atomic.Int64
	lives := []int64{0, 0, 9}
	l := &Link{Connect: func(context.Context) (Keeper, error) {
		n := opened.Add(1)
		k := &fake{number: n}
		k.calls.Store(lives[n-1])
		return k, nil
	}}
	if _, err := l.Open(t.Context()); err != nil {
		t.Fatal(err)
	}
	last := int64(0)
	err := l.Do(t.Context(), func(k Keeper) error {
		last = k.(*fake).number
		return k.Delete(t.Context(), "a")
	})
	if err != nil || last != 3 || opened.Load() != 3 {
		t.Errorf("%v, keeper %d, %d opened", err, last, opened.Load())
	}
}

func TestDoGivesUp(t *testing.T) {
	calls := 0
	l := &Link{Connect: func(context.Context) (Keeper, error) { return &fake{}, nil }}
	for name, tc := range map[string]struct {
		err   error
		calls int
	}{
		"an answer is final":   {keeper.ErrState, 1},
		"lost again and again": {keeper.ErrLost, maxTries},
	} {
		if _, err := l.Open(t.Context()); err != nil {
			t.Fatal(err)
		}
		calls = 0
		if err := l.Do(t.Context(), func(Keeper) error { calls++; return tc.err }); !errors.Is(err, tc.err) || calls != tc.calls {
			t.Errorf("%s: %v after %d calls, want %d", name, err, calls, tc.calls)
		}
	}
	l.Retire()
	calls = 0
	if err := l.Do(t.Context(), func(Keeper) error { calls++; return keeper.ErrLost }); err == nil || calls != 1 {
		t.Errorf("a keeper that is being ended was started again: %v after %d calls", err, calls)
	}
}
