package engine

import (
	"context"
	"errors"
	"sync"

	"github.com/skiff-node/skiff/imageservice"
)

// flights lets concurrent pulls share work: the first to need a blob or layer brings it, the others wait and get the
// same progress reports.
type flights struct {
	mu     sync.Mutex
	flying map[string]*flight
}

type flight struct {
	done chan struct{}
	err  error

	mu       sync.Mutex
	watchers []func(imageservice.Progress)
}

func (f *flight) watch(report func(imageservice.Progress)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.watchers = append(f.watchers, report)
}

func (f *flight) report(p imageservice.Progress) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, report := range f.watchers {
		report(p)
	}
}

// do runs work unless the same key is already under way, then it waits for that. Work that failed for a reason of
// its starter's own (who went away or had no permission) is taken over by one of those who waited.
func (f *flights) do(ctx context.Context, key string, report func(imageservice.Progress), work func(func(imageservice.Progress)) error) error {
	for {
		f.mu.Lock()
		fl, flying := f.flying[key]
		if !flying {
			fl = &flight{done: make(chan struct{}), watchers: []func(imageservice.Progress){report}}
			if f.flying == nil {
				f.flying = map[string]*flight{}
			}
			f.flying[key] = fl
			f.mu.Unlock()
			return f.lead(key, fl, work)
		}
		f.mu.Unlock()
		fl.watch(report)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-fl.done:
		}
		if fl.err == nil || !personal(fl.err) {
			return fl.err
		}
	}
}

// lead does the work for all.
func (f *flights) lead(key string, fl *flight, work func(func(imageservice.Progress)) error) error {
	fl.err = errors.New("image work was abandoned by a panic")
	defer func() {
		f.mu.Lock()
		delete(f.flying, key)
		f.mu.Unlock()
		close(fl.done)
	}()
	fl.err = work(fl.report)
	return fl.err
}

// personal errors say something about who started the work, not about the work.
func personal(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, imageservice.ErrUnauthorized) || errors.Is(err, errLacking)
}
