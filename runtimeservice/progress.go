package runtimeservice

import "context"

// Progress follows what a call does, step by step. Whoever wants to know puts one in the context of the call
// (WithProgress): a watchdog, metrics, a tracer. Without one a step costs a look into the context.
type Progress interface {
	// Step is told that a step begins. The context it returns is that of the step; the function is called at its end.
	Step(ctx context.Context, name string) (context.Context, func(error))
}

type progressKey struct{}

// WithProgress has p told of the steps that are done under the context.
func WithProgress(ctx context.Context, p Progress) context.Context {
	return context.WithValue(ctx, progressKey{}, p)
}

// Step begins a named step. The function must be called with its outcome.
func Step(ctx context.Context, name string) (context.Context, func(error)) {
	p, ok := ctx.Value(progressKey{}).(Progress)
	if !ok {
		return ctx, func(error) {}
	}
	return p.Step(ctx, name)
}
