package objects

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
)

// Pauses between attempts after a failure. The first ones are short because the authorizer may only be some
// milliseconds behind (see the package comment).
const (
	firstPause = 20 * time.Millisecond
	lastPause  = 30 * time.Second
)

// accessor reads one object.
type accessor struct {
	get   func(context.Context) (runtime.Object, error)
	list  func(context.Context) (obj runtime.Object, resourceVersion string, err error)
	watch func(ctx context.Context, resourceVersion string) (watch.Interface, error)
}

// access returns the accessor of ref.
func access(client kubernetes.Interface, ref Ref) accessor {
	if ref.Kind == ConfigMap {
		return accessorOf(client.CoreV1().ConfigMaps(ref.Namespace), ref.Name)
	}
	return accessorOf(client.CoreV1().Secrets(ref.Namespace), ref.Name)
}

// reader is what a client of a kind reads objects by.
type reader[O, L any] interface {
	Get(ctx context.Context, name string, opts metav1.GetOptions) (O, error)
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// list is a kind's list of objects.
type list interface {
	runtime.Object
	metav1.ListInterface
}

// accessorOf reads the object of that name. Lists are of one object and consistent (no resource version is given), so that a pod created
// right after its ConfigMap finds it.
func accessorOf[O runtime.Object, L list](api reader[O, L], name string) accessor {
	options := func(rv string) metav1.ListOptions {
		only := fields.OneTermEqualSelector("metadata.name", name).String()
		return metav1.ListOptions{FieldSelector: only, ResourceVersion: rv, AllowWatchBookmarks: rv != ""}
	}
	return accessor{
		get: func(ctx context.Context) (runtime.Object, error) { return api.Get(ctx, name, metav1.GetOptions{}) },
		list: func(ctx context.Context) (found runtime.Object, rv string, err error) {
			l, err := api.List(ctx, options(""))
			if err != nil {
				return nil, "", err
			}
			err = meta.EachListItem(l, func(obj runtime.Object) error {
				if o, ok := obj.(metav1.Object); ok && o.GetName() == name { // a server that ignores field selectors sends more than one
					found = obj
				}
				return nil
			})
			return found, l.GetResourceVersion(), err
		},
		watch: func(ctx context.Context, rv string) (watch.Interface, error) { return api.Watch(ctx, options(rv)) },
	}
}

// watcher keeps one object current until its context ends. It reports each version, nil for "does not exist", and
// each failure by update.
type watcher struct {
	client accessor
	update func(obj runtime.Object, err error)
	log    *slog.Logger
}

func (w *watcher) run(ctx context.Context) {
	pause := firstPause
	for ctx.Err() == nil {
		frozen, err := w.once(ctx)
		if ctx.Err() != nil || frozen {
			return
		}
		if err == nil {
			pause = firstPause
			continue
		}
		w.update(nil, err)
		w.log.Debug("watch of a referenced object failed; trying again", "err", err, "after", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause + rand.N(pause/2+1)):
		}
		pause = min(2*pause, lastPause)
	}
}

// once lists the object, then follows its watch until that ends. frozen says that the object is immutable: it needs
// no watch any more.
func (w *watcher) once(ctx context.Context) (frozen bool, err error) {
	obj, rv, err := w.client.list(ctx)
	if err != nil {
		return false, err
	}
	w.update(obj, nil)
	if immutable(obj) {
		return true, nil
	}
	stream, err := w.client.watch(ctx, rv)
	if err != nil {
		return false, err
	}
	defer stream.Stop()
	began := time.Now()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case ev, open := <-stream.ResultChan():
			if !open {
				return false, ended(time.Since(began))
			}
			if frozen, err = w.event(ev); frozen || err != nil {
				return frozen, err
			}
		}
	}
}

// ended tells an ordinary end of a watch, after some minutes, from a server that closes it at once.
func ended(after time.Duration) error {
	if after < time.Second {
		return errors.New("the server ended the watch at once")
	}
	return nil
}

func (w *watcher) event(ev watch.Event) (frozen bool, err error) {
	switch ev.Type {
	case watch.Added, watch.Modified:
		w.update(ev.Object, nil)
		return immutable(ev.Object), nil
	case watch.Deleted:
		w.update(nil, nil)
	case watch.Error:
		err := apierrors.FromObject(ev.Object)
		if apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			return false, nil
		}
		return false, err
	}
	return false, nil
}

// immutable reports whether obj promises never to change. One that is deleted and made anew under its name stays
// unnoticed, as upstream documents for immutable objects.
func immutable(obj runtime.Object) bool {
	switch o := obj.(type) {
	case *v1.ConfigMap:
		return o.Immutable != nil && *o.Immutable
	case *v1.Secret:
		return o.Immutable != nil && *o.Immutable
	}
	return false
}
