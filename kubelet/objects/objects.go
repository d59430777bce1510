// Package objects holds the ConfigMaps and Secrets that the pods of this node refer to, each kept current by a
// watch of its own.
//
// A kubelet may not list ConfigMaps or Secrets: the Node authorizer lets it get, list and watch single objects, named
// by a field selector, and only those that a pod bound to the node refers to. So there is no informer here, but one
// small watch per object: it starts when the first pod refers to the object and ends with the last one. All users of
// an object read the same copy, which they must not change.
//
// The authorizer learns of a pod's references from its own watch, which may lag behind the kubelet's by some
// milliseconds. A refusal right after a pod was bound is therefore no verdict: it is tried again, soon at first.
package objects

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Config is what a Cache needs.
type Config struct {
	// Client reaches the API server with the node's credentials.
	Client kubernetes.Interface
	// Changed is called with the UIDs of the pods that refer to an object which appeared, changed or went away. It
	// must not block. May be nil.
	Changed func(pods []types.UID)
	// Log receives failures of watches. May be nil.
	Log *slog.Logger
}

// Cache answers for the referenced objects of the registered pods. It is safe for concurrent use.
type Cache struct {
	cfg   Config
	done  chan struct{} // closed by Close
	group sync.WaitGroup

	mu      sync.Mutex
	entries map[Ref]*entry
	pods    map[types.UID]map[Ref]bool
}

// New returns an empty cache. Close ends its watches.
func New(cfg Config) (*Cache, error) {
	if cfg.Client == nil {
		return nil, fmt.Errorf("objects: Client is required")
	}
	if cfg.Changed == nil {
		cfg.Changed = func([]types.UID) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Cache{cfg: cfg, done: make(chan struct{}),
		entries: map[Ref]*entry{}, pods: map[types.UID]map[Ref]bool{}}, nil
}

// Close stops every watch and waits for it. The cache answers no more; Register has no effect any more.
func (c *Cache) Close() {
	c.mu.Lock()
	if !c.closed() {
		close(c.done)
	}
	for _, e := range c.entries {
		e.cancel()
	}
	c.mu.Unlock()
	c.group.Wait()
}

func (c *Cache) closed() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// Register starts to watch what the pod refers to and stops to watch what an earlier version of it did. Call it for
// each version of a pod's spec; ephemeral containers may add references.
func (c *Cache) Register(pod *v1.Pod) {
	c.set(pod.UID, References(pod))
}

// Unregister drops the pod's references. An unknown pod is no error.
func (c *Cache) Unregister(uid types.UID) {
	c.set(uid, nil)
}

func (c *Cache) set(uid types.UID, refs map[Ref]bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed() {
		return
	}
	old := c.pods[uid]
	for ref := range refs {
		if old[ref] {
			continue
		}
		e := c.entries[ref]
		if e == nil {
			e = c.start(ref)
		}
		e.users[uid] = true
	}
	for ref := range old {
		if refs[ref] {
			continue
		}
		e := c.entries[ref]
		delete(e.users, uid)
		if len(e.users) == 0 {
			e.cancel()
			delete(c.entries, ref)
		}
	}
	if len(refs) == 0 {
		delete(c.pods, uid)
	} else {
		c.pods[uid] = refs
	}
}

// start begins the watch of ref; c.mu is held.
func (c *Cache) start(ref Ref) *entry {
	ctx, cancel := context.WithCancel(context.Background())
	e := &entry{ref: ref, users: map[types.UID]bool{}, cancel: cancel, ready: make(chan struct{})}
	c.entries[ref] = e
	c.group.Add(1)
	go func() {
		defer c.group.Done()
		w := &watcher{
			client: access(c.cfg.Client, ref),
			update: func(obj runtime.Object, err error) { c.update(e, obj, err) },
			log:    c.cfg.Log.With("object", ref.String()),
		}
		w.run(ctx)
	}()
	return e
}

// update stores what the watch of e learnt and tells the pods when it is news.
func (c *Cache) update(e *entry, obj runtime.Object, err error) {
	c.mu.Lock()
	if err != nil {
		e.lastErr = err
		c.mu.Unlock()
		return
	}
	first := !e.synced
	news := first || version(e.object) != version(obj)
	e.object, e.synced, e.lastErr = obj, true, nil
	if first {
		close(e.ready)
	}
	users := make([]types.UID, 0, len(e.users))
	for uid := range e.users {
		users = append(users, uid)
	}
	c.mu.Unlock()
	if news && len(users) > 0 {
		c.cfg.Changed(users)
	}
}

// ConfigMap returns the ConfigMap, waiting for the first answer of its watch until ctx ends. One that does not exist
// is an error for which apierrors.IsNotFound is true. An object no registered pod refers to is read from the server.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*v1.ConfigMap, error) {
	obj, err := c.get(ctx, Ref{ConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*v1.ConfigMap), nil
}

// Secret is ConfigMap for Secrets.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*v1.Secret, error) {
	obj, err := c.get(ctx, Ref{Secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*v1.Secret), nil
}

func (c *Cache) get(ctx context.Context, ref Ref) (runtime.Object, error) {
	c.mu.Lock()
	e := c.entries[ref]
	c.mu.Unlock()
	if e == nil {
		return access(c.cfg.Client, ref).get(ctx)
	}
	select {
	case <-e.ready:
	case <-c.done:
		return nil, fmt.Errorf("read %s: the cache is closed", ref)
	case <-ctx.Done():
		return nil, c.late(ctx, e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.object == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: string(ref.Kind)}, ref.Name)
	}
	return e.object, nil
}

// late explains why an object did not arrive in time: by what the server said last, when it said anything.
func (c *Cache) late(ctx context.Context, e *entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.lastErr != nil {
		return fmt.Errorf("read %s: %w", e.ref, e.lastErr)
	}
	return fmt.Errorf("read %s: %w", e.ref, ctx.Err())
}

// entry is one watched object. Its fields but ref, cancel and ready are guarded by the cache's mutex.
type entry struct {
	ref     Ref
	cancel  context.CancelFunc
	ready   chan struct{} // closed by the first answer
	users   map[types.UID]bool
	synced  bool
	object  runtime.Object // nil: does not exist
	lastErr error
}

// version is the resource version of obj, or "" for none.
func version(obj runtime.Object) string {
	if m, ok := obj.(metav1.Object); ok {
		return m.GetResourceVersion()
	}
	return ""
}
