// Package track watches Services and EndpointSlices and folds their events into a set of names that changed. Who takes
// the names reads the objects themselves anew: a wake-up carries nothing, so none can be lost.
package track

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// byService indexes slices by the Service they belong to.
const byService = "service"

// Tracker is the proxy's view of the API.
type Tracker struct {
	factory  informers.SharedInformerFactory
	services cache.SharedIndexInformer
	slices   cache.SharedIndexInformer
	wake     chan struct{}

	mu    sync.Mutex
	dirty map[types.NamespacedName]bool
}

// New makes a tracker; Run starts it.
func New(client kubernetes.Interface) (*Tracker, error) {
	f := informers.NewSharedInformerFactory(client, 0)
	t := &Tracker{factory: f, services: f.Core().V1().Services().Informer(), slices: f.Discovery().V1().EndpointSlices().Informer(),
		wake: make(chan struct{}, 1), dirty: map[types.NamespacedName]bool{}}
	if err := t.slices.AddIndexers(cache.Indexers{byService: func(o any) ([]string, error) {
		if s, ok := o.(*discoveryv1.EndpointSlice); ok {
			return []string{owner(s).String()}, nil
		}
		return nil, nil
	}}); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	for _, in := range []cache.SharedIndexInformer{t.services, t.slices} {
		if _, err := in.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    t.note,
			UpdateFunc: func(before, after any) { t.note(before); t.note(after) },
			DeleteFunc: t.note,
		}); err != nil {
			return nil, fmt.Errorf("watch: %w", err)
		}
	}
	return t, nil
}

// Run watches until ctx ends. synced is called once when the first lists are complete.
func (t *Tracker) Run(ctx context.Context, synced func()) error {
	t.factory.StartWithContext(ctx)
	defer t.factory.Shutdown()
	if !cache.WaitForCacheSync(ctx.Done(), t.services.HasSynced, t.slices.HasSynced) {
		return errors.Join(ctx.Err(), errors.New("the first list of Services did not complete"))
	}
	synced()
	<-ctx.Done()
	return nil
}

// Changed receives after something changed.
func (t *Tracker) Changed() <-chan struct{} { return t.wake }

// Take returns the names that changed since the last Take, in order.
func (t *Tracker) Take() []types.NamespacedName {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := slices.SortedFunc(maps.Keys(t.dirty), func(a, b types.NamespacedName) int {
		return slices.Compare([]string{a.Namespace, a.Name}, []string{b.Namespace, b.Name})
	})
	clear(t.dirty)
	return out
}

// Get is a Service, nil when it is gone, and its slices.
func (t *Tracker) Get(name types.NamespacedName) (*corev1.Service, []*discoveryv1.EndpointSlice) {
	var svc *corev1.Service
	if o, ok, _ := t.services.GetStore().GetByKey(name.String()); ok {
		svc, _ = o.(*corev1.Service)
	}
	objs, _ := t.slices.GetIndexer().ByIndex(byService, name.String())
	var out []*discoveryv1.EndpointSlice
	for _, o := range objs {
		if s, ok := o.(*discoveryv1.EndpointSlice); ok {
			out = append(out, s)
		}
	}
	return svc, out
}

func (t *Tracker) note(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	var name types.NamespacedName
	switch o := o.(type) {
	case *corev1.Service:
		name = types.NamespacedName{Namespace: o.Namespace, Name: o.Name}
	case *discoveryv1.EndpointSlice:
		name = owner(o)
	default:
		return
	}
	t.mu.Lock()
	t.dirty[name] = true
	t.mu.Unlock()
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// owner is the Service of a slice (discovery/v1 LabelServiceName).
func owner(s *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}
