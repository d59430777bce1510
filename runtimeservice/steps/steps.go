// Package steps carries out a list of named steps, each with its undo. An undo is idempotent and works from the
// record of the object alone, without what its step returned: after a crash nobody knows how far the list came, so
// all undos run, and undoing what never happened succeeds.
package steps

import (
	"context"
	"errors"
	"fmt"

	"github.com/skiff-node/skiff/runtimeservice"
)

// Step is one thing to do. Undo may be nil when there is nothing to undo.
type Step struct {
	Name string
	Do   func(ctx context.Context) error
	Undo func(ctx context.Context) error
}

// Run does the steps in order. When one fails, it is undone too, for it may be half done, then those before it, in
// reverse. The undo does not stop when ctx is done.
func Run(ctx context.Context, list []Step) error {
	for i, s := range list {
		err := ctx.Err()
		if err == nil && s.Do != nil {
			err = do(ctx, s.Name, s.Do)
		}
		if err == nil {
			continue
		}
		err = fmt.Errorf("%s: %w", s.Name, err)
		if undo := Undo(context.WithoutCancel(ctx), list[:i+1]); undo != nil {
			return &Stuck{Cause: err, Undo: undo}
		}
		return err
	}
	return nil
}

// do tells the context's Progress of the step.
func do(ctx context.Context, name string, fn func(context.Context) error) error {
	ctx, done := runtimeservice.Step(ctx, name)
	err := fn(ctx)
	done(err)
	return err
}

// Undo undoes all steps in reverse. It goes on when one fails and returns all failures.
func Undo(ctx context.Context, list []Step) error {
	var errs []error
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].Undo == nil {
			continue
		}
		if err := do(ctx, "undo "+list[i].Name, list[i].Undo); err != nil {
			errs = append(errs, fmt.Errorf("undo %q: %w", list[i].Name, err))
		}
	}
	return errors.Join(errs...)
}

// Stuck is a failure whose undo failed as well: something is left over that must be undone later.
type Stuck struct{ Cause, Undo error }

func (s *Stuck) Error() string { return fmt.Sprintf("%v; then: %v", s.Cause, s.Undo) }

// Unwrap is the cause: what the caller asked for failed because of it.
func (s *Stuck) Unwrap() error { return s.Cause }
