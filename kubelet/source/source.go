// Package source tells which pods shall run on this node. There are three sources, merged here:
//
//	the API       all pods bound to the node, by a watch
//	a directory   static pods, one per file, which run also without an API server
//	a URL         static pods too: a Pod, or a PodList
//
// A static pod is shown in the API by a mirror pod, which this package makes and removes: it has the static pod's name,
// the annotation kubernetes.io/config.mirror with its hash, and never runs itself. It stays until the static pod has ended.
//
// Whatever happens, the same is done: both sources are read as they are now and compared with what was told before. Pods are
// told in the order of their creation, so that after a restart older pods get their place first.
package source

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Annotations of static pods and their mirrors, beside those of package pod.
const (
	AnnotationSeen = "kubernetes.io/config.seen"
	AnnotationHash = "kubernetes.io/config.hash"
)

// Values of pod.AnnotationSource.
const (
	fromFile = "file"
	fromURL  = "http"
)

// Sink takes what the sources tell.
type Sink interface {
	Update(p *v1.Pod, static bool)
	Remove(uid types.UID)
	// Wake tells that something about the pod has changed that is not in it: its mirror.
	Wake(uid types.UID)
	// Static is the static pod of that namespace and name of which something is still here, "" when there is none. When it is
	// gone the source wants to be poked.
	Static(namespace, name string) types.UID
}

// Config of a Source.
type Config struct {
	// Client of the API; nil for a node without one.
	Client   kubernetes.Interface
	NodeName string
	// NodeUID gives the UID of the node's object, for the owner reference of mirror pods; empty while it is not known.
	NodeUID func() types.UID
	// Dir holds the files of static pods; empty for none. It need not exist yet.
	Dir string
	// Period is how often Dir is read when nothing tells of a change; 20 s by default.
	Period time.Duration
	// URL of static pods, empty for none; it is read each URLPeriod (20 s by default), with URLHeader.
	URL       string
	URLHeader http.Header
	URLPeriod time.Duration
	Sink      Sink
	// Ready is called once both sources have been read for the first time: pods that the runtime has and no source told of
	// are orphans. Optional.
	Ready func()
	Log   *slog.Logger
}

// Source merges the sources.
type Source struct {
	cfg      Config
	informer cache.SharedIndexInformer
	wake     chan struct{}

	// The loop's own.
	began   time.Time
	told    map[types.UID]string // what was told, with its version
	ready   bool
	statics map[types.UID]*v1.Pod
	files   map[types.UID]*v1.Pod // those of statics that are from the directory, as it was when it was read
	read    time.Time

	changed atomic.Bool // the directory may be other than it was read
	remote  *remote     // nil without a URL

	mu      sync.Mutex
	mirrors map[string]*v1.Pod // mirror pods in the API, by namespace/name
}

// New makes a source.
func New(cfg Config) *Source {
	if cfg.Period == 0 {
		cfg.Period = 20 * time.Second
	}
	s := &Source{cfg: cfg, wake: make(chan struct{}, 1), told: map[types.UID]string{}, statics: map[types.UID]*v1.Pod{},
		mirrors: map[string]*v1.Pod{}}
	if cfg.URL != "" {
		s.remote = newRemote(&s.cfg)
	}
	if cfg.Client != nil {
		s.informer = cache.NewSharedIndexInformer(podsOf(cfg.Client, cfg.NodeName), &v1.Pod{}, 0, cache.Indexers{})
		_ = s.informer.SetTransform(slim) // it fails only on an informer that runs
	}
	return s
}

// slim drops who wrote which field: that is a third of a small pod, and nobody here reads it. A pod that says that it is static is
// not believed: it would be taken for critical.
func slim(obj any) (any, error) {
	p, ok := obj.(*v1.Pod)
	if !ok {
		return obj, nil
	}
	p.ManagedFields = nil
	if _, mirror := p.Annotations[pod.AnnotationMirror]; !mirror && pod.Static(p) {
		p.Annotations[pod.AnnotationSource] = pod.SourceAPI
	}
	return p, nil
}

// podsOf lists and watches the pods bound to a node.
func podsOf(client kubernetes.Interface, node string) cache.ListerWatcher {
	selector := fields.OneTermEqualSelector("spec.nodeName", node).String()
	return cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = selector
			return client.CoreV1().Pods("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = selector
			return client.CoreV1().Pods("").Watch(ctx, o)
		},
	}, client)
}

// Poke makes the source look again.
func (s *Source) Poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Run reads both sources until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	var group sync.WaitGroup
	defer group.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if s.informer != nil {
		poke := func(any) { s.Poke() }
		if _, err := s.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: poke,
			UpdateFunc: func(_, _ any) { s.Poke() }, DeleteFunc: poke}); err != nil {
			return fmt.Errorf("watch pods: %w", err)
		}
		group.Go(func() { s.informer.RunWithContext(ctx) })
	}
	if s.remote != nil {
		group.Go(func() { s.remote.run(ctx, s.Poke) })
	}
	if s.cfg.Dir != "" {
		group.Go(func() { s.notify(ctx) })
	}
	for {
		again := s.pass(ctx)
		timer := time.NewTimer(again)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-s.wake:
			timer.Stop()
		case <-timer.C:
		}
	}
}

// Pauses until the next look when nothing tells of a change.
const (
	untilSynced = 10 * time.Millisecond
	untilMirror = time.Second
	// headStart is how long static pods wait for the API at start: their mirrors tell how they were before. It is short,
	// since the API server itself may be one of them.
	headStart = 500 * time.Millisecond
)

// pass reads the sources once, tells what has changed and puts the mirrors right.
func (s *Source) pass(ctx context.Context) time.Duration {
	synced := s.informer == nil || s.informer.HasSynced()
	if s.began.IsZero() {
		s.began = time.Now()
	}
	if !synced && time.Since(s.began) < headStart {
		return untilSynced
	}
	statics := s.fromDir()
	if s.remote != nil {
		s.remote.addTo(statics)
	}
	var regular []*v1.Pod
	if s.informer != nil {
		regular = s.fromAPI()
	}
	if !synced {
		regular = nil
	}
	s.tell(statics, regular, synced)
	if synced && !s.ready {
		s.ready = true
		if s.cfg.Ready != nil {
			s.cfg.Ready()
		}
	}
	switch {
	case !synced:
		return untilSynced
	case s.cfg.Client != nil && !s.mirror(ctx):
		return untilMirror
	}
	return s.cfg.Period
}

// fromDir are the static pods of the directory. It is read when it has changed, and once a period in case nothing tells so; what
// happens in the API, which is much more often, is no reason to.
func (s *Source) fromDir() map[types.UID]*v1.Pod {
	if s.changed.Swap(false) || time.Since(s.read) >= s.cfg.Period {
		s.files, s.read = s.readDir(), time.Now()
	}
	return maps.Clone(s.files)
}

// fromAPI lists the pods to run, and takes note of the mirrors.
func (s *Source) fromAPI() []*v1.Pod {
	var regular []*v1.Pod
	mirrors := map[string]*v1.Pod{}
	for _, obj := range s.informer.GetStore().List() {
		p := obj.(*v1.Pod)
		if _, ok := p.Annotations[pod.AnnotationMirror]; ok {
			mirrors[p.Namespace+"/"+p.Name] = p
			continue
		}
		regular = append(regular, p)
	}
	s.mu.Lock()
	before := s.mirrors
	s.mirrors = mirrors
	s.mu.Unlock()
	for uid, p := range s.statics {
		name := p.Namespace + "/" + p.Name
		if old, now := before[name], mirrors[name]; now != nil && (old == nil || old.UID != now.UID) {
			s.cfg.Sink.Wake(uid)
		}
	}
	return regular
}

// tell compares with what was told before. While the API has not been read nothing of it is taken as gone.
func (s *Source) tell(statics map[types.UID]*v1.Pod, regular []*v1.Pod, synced bool) {
	now := map[types.UID]string{}
	var all []*v1.Pod
	for uid, p := range statics {
		now[uid] = "static"
		all = append(all, p)
	}
	for _, p := range regular {
		now[p.UID] = p.ResourceVersion
		all = append(all, p)
	}
	for uid, version := range s.told {
		if _, ok := now[uid]; !ok && (synced || version == "static") {
			delete(s.told, uid)
			s.cfg.Sink.Remove(uid)
		}
	}
	sort.Slice(all, func(i, j int) bool {
		a, b := all[i], all[j]
		if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return a.CreationTimestamp.Before(&b.CreationTimestamp)
		}
		return a.Name < b.Name
	})
	for _, p := range all {
		if s.told[p.UID] != now[p.UID] {
			s.told[p.UID] = now[p.UID]
			static := now[p.UID] == "static"
			if static {
				p = s.resumed(p)
			}
			s.cfg.Sink.Update(p, static)
		}
	}
	s.statics = statics
}

// resumed is the static pod with the status its mirror shows, if it has one: the pod ran before this kubelet did.
func (s *Source) resumed(p *v1.Pod) *v1.Pod {
	m := s.Mirror(p)
	if m == nil || m.Status.StartTime == nil || pod.Terminal(m.Status.Phase) {
		return p
	}
	p = p.DeepCopy()
	p.Status = *m.Status.DeepCopy()
	return p
}

// Mirror gives the mirror of a static pod, as last seen in the API, nil when there is none.
func (s *Source) Mirror(p *v1.Pod) *v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mirrors[p.Namespace+"/"+p.Name]
	if m == nil || m.Annotations[pod.AnnotationMirror] != p.Annotations[AnnotationHash] {
		return nil
	}
	return m
}

// Shown gives the pod in the API that shows p: p itself, or the mirror of a static pod.
func (s *Source) Shown(p *v1.Pod) *v1.Pod {
	if pod.Static(p) {
		return s.Mirror(p)
	}
	return p
}
