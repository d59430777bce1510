package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// LendPods makes the pods of a factory that is not used yet those of another one that runs already: each pod is then sent, decoded
// and held once in this process. Other kinds change too rarely to be worth it.
func LendPods(to, from informers.SharedInformerFactory) {
	running := from.Core().V1().Pods().Informer()
	to.InformerFor(&corev1.Pod{}, func(kubernetes.Interface, time.Duration) cache.SharedIndexInformer {
		return &lent{SharedIndexInformer: running, handlers: map[*registration]bool{}}
	})
}

// errReturned says that the borrower has stopped.
var errReturned = errors.New("the informer's borrower has stopped")

// lent is an informer that runs already, for users who expect one that does not: upstream's constructors register handlers before
// they set what those handlers use. Handlers get what there is when it is started, and nothing more when it is stopped; the informer
// behind it goes on.
//
//	waiting ── RunWithContext ──▶ running ── end of its context ──▶ returned
type lent struct {
	cache.SharedIndexInformer

	mu       sync.Mutex
	handlers map[*registration]bool
	running  <-chan struct{} // closed when the borrower stops; nil while waiting
	returned bool
	watchers sync.WaitGroup
}

// AddEventHandler implements cache.SharedInformer.
func (l *lent) AddEventHandler(h cache.ResourceEventHandler) (cache.ResourceEventHandlerRegistration, error) {
	return l.AddEventHandlerWithOptions(h, cache.HandlerOptions{})
}

// AddEventHandlerWithResyncPeriod implements cache.SharedInformer.
func (l *lent) AddEventHandlerWithResyncPeriod(h cache.ResourceEventHandler, resync time.Duration) (cache.ResourceEventHandlerRegistration, error) {
	return l.AddEventHandlerWithOptions(h, cache.HandlerOptions{ResyncPeriod: &resync})
}

// AddEventHandlerWithOptions implements cache.SharedInformer.
func (l *lent) AddEventHandlerWithOptions(h cache.ResourceEventHandler, o cache.HandlerOptions) (cache.ResourceEventHandlerRegistration, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.returned {
		return nil, errReturned
	}
	r := &registration{handler: h, options: o, synced: make(chan struct{})}
	if l.running != nil {
		if err := l.register(r); err != nil {
			return nil, err
		}
	}
	l.handlers[r] = true
	return r, nil
}

// RemoveEventHandler implements cache.SharedInformer.
func (l *lent) RemoveEventHandler(handle cache.ResourceEventHandlerRegistration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	r, ok := handle.(*registration)
	if !ok || !l.handlers[r] {
		return nil
	}
	delete(l.handlers, r)
	return l.remove(r)
}

// Run implements cache.SharedInformer.
func (l *lent) Run(stop <-chan struct{}) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		defer cancel()
		select {
		case <-stop:
		case <-ctx.Done():
		}
	}()
	l.RunWithContext(ctx)
}

// RunWithContext implements cache.SharedInformer.
func (l *lent) RunWithContext(ctx context.Context) {
	l.begin(ctx.Done())
	<-ctx.Done()
	l.end()
	l.watchers.Wait()
}

func (l *lent) begin(stop <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = stop
	for r := range l.handlers {
		if err := l.register(r); err != nil {
			slog.Error("watch pods", "err", err)
		}
	}
}

func (l *lent) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.returned = true
	for r := range l.handlers {
		if err := l.remove(r); err != nil {
			slog.Error("stop watching pods", "err", err)
		}
	}
	clear(l.handlers)
}

// register gives a handler to the informer behind. l.mu is held.
func (l *lent) register(r *registration) error {
	real, err := l.SharedIndexInformer.AddEventHandlerWithOptions(r.handler, r.options)
	if err != nil {
		return fmt.Errorf("register with the server's informer: %w", err)
	}
	r.real.Store(&real)
	stop := l.running
	l.watchers.Go(func() {
		select {
		case <-real.HasSyncedChecker().Done():
			close(r.synced)
		case <-stop:
		}
	})
	return nil
}

// remove takes a handler away from the informer behind. l.mu is held.
func (l *lent) remove(r *registration) error {
	real := r.real.Load()
	if real == nil {
		return nil
	}
	if err := l.SharedIndexInformer.RemoveEventHandler(*real); err != nil {
		return fmt.Errorf("take from the server's informer: %w", err)
	}
	return nil
}

// registration is a handler of lent. It implements cache.ResourceEventHandlerRegistration and cache.DoneChecker.
type registration struct {
	handler cache.ResourceEventHandler
	options cache.HandlerOptions
	real    atomic.Pointer[cache.ResourceEventHandlerRegistration] // once it is known to the informer behind
	synced  chan struct{}                                          // closed when the handler has got all that was there
}

// HasSynced implements cache.ResourceEventHandlerRegistration.
func (r *registration) HasSynced() bool {
	real := r.real.Load()
	return real != nil && (*real).HasSynced()
}

// HasSyncedChecker implements cache.ResourceEventHandlerRegistration.
func (r *registration) HasSyncedChecker() cache.DoneChecker { return r }

// Name implements cache.DoneChecker.
func (r *registration) Name() string { return "pods of the server" }

// Done implements cache.DoneChecker.
func (r *registration) Done() <-chan struct{} { return r.synced }
