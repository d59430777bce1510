package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/skiff-node/skiff/test/bench/report"
)

// bench is one run: it stands in for a test towards the harness, and says what goes on.
type bench struct {
	ctx    context.Context // done on Ctrl-C; the run's only context, so it lives as long as the run
	report *report.Report
	start  time.Time

	mu       sync.Mutex
	cleanups []func()
	failures []string
	broken   bool // the run has ended early
}

func newBench(ctx context.Context, r *report.Report) *bench {
	return &bench{ctx: ctx, report: r, start: time.Now()}
}

// fatal is what a failed step of the harness ends the run with.
type fatal struct{ error }

// guard turns the harness's Fatal into an error.
func (b *bench) guard(f func() error) (err error) {
	defer func() {
		p := recover()
		if f, ok := p.(fatal); ok {
			err = f.error
		} else if p != nil {
			b.close()
			panic(p)
		}
	}()
	return f()
}

// close undoes everything, last first. An error says what was left behind.
func (b *bench) close() error {
	for len(b.cleanups) > 0 {
		last := b.cleanups[len(b.cleanups)-1]
		b.cleanups = b.cleanups[:len(b.cleanups)-1]
		if err := b.guard(func() error { last(); return nil }); err != nil {
			b.Errorf("%v", err)
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.failures) > 0 {
		return errors.New(strings.Join(b.failures, "\n"))
	}
	return nil
}

// say shows progress.
func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.1fs  %s\n", time.Since(b.start).Seconds(), fmt.Sprintf(format, args...))
}

// Helper is for tests only.
func (b *bench) Helper() {}

// Logf shows a line of a log.
func (b *bench) Logf(format string, args ...any) { b.say(format, args...) }

// Errorf notes a failure.
func (b *bench) Errorf(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.failures = append(b.failures, fmt.Sprintf(format, args...))
}

// Fatal ends the run.
func (b *bench) Fatal(args ...any) { panic(fatal{errors.New(fmt.Sprint(args...))}) }

// Fatalf ends the run.
func (b *bench) Fatalf(format string, args ...any) { panic(fatal{fmt.Errorf(format, args...)}) }

// Failed says whether something failed.
func (b *bench) Failed() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.failures) > 0 || b.broken
}

// Cleanup registers what undoes a step.
func (b *bench) Cleanup(f func()) { b.cleanups = append(b.cleanups, f) }

// wait asks every millisecond until the answer is nil; when ctx is done it returns the last answer.
func wait(ctx context.Context, ask func() error) error {
	for {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(time.Millisecond):
		}
	}
}
