// Package ondemand watches objects of the API from the first time that somebody needs them: most nodes never need most kinds.
package ondemand

import (
	"context"
	"sync"

	"k8s.io/client-go/informers"
)

// Informers are those of a factory, which are made before Run.
type Informers struct {
	factory informers.SharedInformerFactory
	needed  chan struct{} // closed by the first need
	once    sync.Once
}

// New returns informers that nobody needs yet.
func New(f informers.SharedInformerFactory) *Informers {
	return &Informers{factory: f, needed: make(chan struct{})}
}

// Need lets them start. It does not wait until they have read what there is.
func (i *Informers) Need() { i.once.Do(func() { close(i.needed) }) }

// Run starts them once they are needed, calls then if it is not nil, and stops them when ctx has ended.
func (i *Informers) Run(ctx context.Context, then func(ctx context.Context)) {
	select {
	case <-ctx.Done():
		return
	case <-i.needed:
	}
	i.factory.StartWithContext(ctx)
	if then != nil {
		then(ctx)
	}
	<-ctx.Done()
	i.factory.Shutdown()
}
