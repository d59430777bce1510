package worker

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/resize"
)

// Pool holds the workers of all pods of the node.
type Pool struct {
	cfg Config

	// turn is held while a pod is taken in or leaves, and taken before mu: admission may take a while, and everybody else can
	// still look at the pods meanwhile.
	turn sync.Mutex

	mu      sync.Mutex
	spawn   func(uid types.UID, w *worker) // starts a worker's goroutine; nil when the pool does not run
	workers map[types.UID]*worker
	// admitted is the pod that admission decides about just now: it may have things of the node before it has a worker.
	admitted types.UID
	settled  atomic.Bool // all pods that there were at start have been told of
	// waiting holds, by namespace/name, a static pod whose predecessor of that name still has to end.
	waiting map[string]*v1.Pod
	group   sync.WaitGroup
}

// NewPool makes an empty pool.
func NewPool(cfg Config) *Pool {
	all := metrics.NewKubelet()
	cfg.Metrics, cfg.Resizes = cmp.Or(cfg.Metrics, all.Pods), cmp.Or(cfg.Resizes, all.Resizes)
	return &Pool{cfg: cfg, workers: map[types.UID]*worker{}, waiting: map[string]*v1.Pod{}}
}

// Run lets the workers work until ctx ends, and waits for them. Running containers are left alone then.
func (pl *Pool) Run(ctx context.Context) error {
	pl.mu.Lock()
	pl.spawn = func(uid types.UID, w *worker) {
		pl.group.Add(1)
		go func() {
			defer pl.group.Done()
			w.run(ctx)
			if ctx.Err() == nil {
				w.ended.tell()
				pl.gone(uid, w)
			}
		}()
	}
	for uid, w := range pl.workers {
		pl.spawn(uid, w)
	}
	pl.mu.Unlock()
	<-ctx.Done()
	pl.mu.Lock()
	pl.spawn = nil
	pl.mu.Unlock()
	pl.group.Wait()
	return nil
}

// launch starts the worker's goroutine, if the pool runs; if not, Run will.
func (pl *Pool) launch(uid types.UID, w *worker) {
	if pl.spawn != nil {
		pl.spawn(uid, w)
	}
}

// gone forgets a worker that has finished, and lets a static pod of the same name begin.
func (pl *Pool) gone(uid types.UID, w *worker) {
	pl.cfg.Probes.Sync(w.pod, nil)
	pl.cfg.Statuses.Forget(uid)
	if w.static && pl.cfg.Gone != nil {
		defer pl.cfg.Gone()
	}
	defer pl.retryResizes(triggerRemoved)
	pl.turn.Lock()
	defer pl.turn.Unlock()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	delete(pl.workers, uid)
	name := w.pod.Namespace + "/" + w.pod.Name
	if next := pl.waiting[name]; next != nil {
		delete(pl.waiting, name)
		if next.UID == uid {
			pl.cfg.Metrics.Restarted(true)
		}
		pl.add(next, true)
	}
}

// Update takes in a new pod, or a new version of one.
func (pl *Pool) Update(p *v1.Pod, static bool) {
	pl.turn.Lock()
	defer pl.turn.Unlock()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	w := pl.workers[p.UID]
	if w == nil {
		if static && named(pl.workers, p.Namespace, p.Name) != nil {
			pl.waiting[p.Namespace+"/"+p.Name] = p
			return
		}
		pl.add(p, static)
		return
	}
	w.mu.Lock()
	revived := static && w.removed
	if !revived {
		pl.cfg.Resizes.Requested(w.pod, p)
		w.pod = p
	}
	w.mu.Unlock()
	pl.regrant(w, triggerUpdated)
	if revived { // its file went away and came back: the same pod has to end before it can begin again
		p = p.DeepCopy()
		p.Status = v1.PodStatus{Phase: v1.PodPending} // not that of its mirror
		pl.waiting[p.Namespace+"/"+p.Name] = p
		return
	}
	if pl.cfg.Register != nil {
		pl.cfg.Register(p)
	}
	w.poke()
}

// Static is the static pod of that namespace and name that has a worker, "" when none has.
func (pl *Pool) Static(namespace, name string) types.UID {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for uid, w := range pl.workers {
		if w.static && w.pod.Name == name && w.pod.Namespace == namespace {
			return uid
		}
	}
	return ""
}

// Settled tells that the sources have told of all pods that there are: whatever a former kubelet left running is known, and a pod
// that comes from now on is new.
func Settled(pl *Pool) { pl.settled.Store(true) }

// named finds a worker of a pod with that namespace and name; nil when there is none.
func named(workers map[types.UID]*worker, namespace, name string) *worker {
	for _, w := range workers {
		if w.pod.Name == name && w.pod.Namespace == namespace {
			return w
		}
	}
	return nil
}

// add takes a pod in. Both locks are held; mu is given up during admission.
func (pl *Pool) add(p *v1.Pod, static bool) {
	w := newWorker(&pl.cfg, p, static)
	fresh := p.Status.StartTime == nil && p.DeletionTimestamp == nil
	if fresh && pl.cfg.Admit != nil {
		active := pl.active()
		pl.admitted = p.UID
		pl.mu.Unlock()
		var end *pod.End
		if pl.settled.Load() || !runs(&pl.cfg, p) {
			end = pl.cfg.Admit(p, static, active)
		}
		pl.mu.Lock()
		pl.admitted = ""
		if w.end = end; end != nil {
			pl.cfg.Metrics.Rejected(end.Reason)
			pl.cfg.Events.Warning(p, "", end.Reason, "%s", strings.TrimPrefix(end.Message, "Pod was rejected: "))
		}
	}
	pl.workers[p.UID] = w
	w.ended.freed = func() { // beside the worker: a pod that is being taken in may hold the turn for long
		pl.group.Go(func() { pl.retryResizes(triggerTerminated) })
	}
	pl.regrant(w, triggerAdded)
	if pl.cfg.Register != nil && w.end == nil {
		pl.cfg.Register(p)
	}
	pl.launch(p.UID, w)
}

// runs tells whether the pod, of which no status is known, has been running all the time that the kubelet was away: then it has been
// taken in before. That is so for static pods without a mirror, and if the kubelet ended before it had told the API.
func runs(cfg *Config, p *v1.Pod) bool {
	_, containers, err := cfg.Runtime.Observe(context.Background(), p.UID)
	return err == nil && slices.ContainsFunc(containers, func(c pod.Container) bool { return c.State == pod.Running })
}

// active lists the pods that hold resources: all that have not ended.
func (pl *Pool) active() []*v1.Pod {
	var list []*v1.Pod
	for _, w := range pl.workers {
		w.mu.Lock()
		rejected := w.end != nil && w.end.Rejected
		over := pod.Terminal(w.status.Phase)
		if !rejected && !over {
			list = append(list, resize.Apply(w.pod, w.resize.granted))
		}
		w.mu.Unlock()
	}
	return list
}

// Remove tells that no source has the pod any more: it ends with its own grace period, and is forgotten.
func (pl *Pool) Remove(uid types.UID) {
	pl.turn.Lock()
	defer pl.turn.Unlock()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	for name, p := range pl.waiting {
		if p.UID == uid {
			delete(pl.waiting, name)
		}
	}
	if w := pl.workers[uid]; w != nil {
		w.remove()
	}
}

func (w *worker) remove() {
	w.mu.Lock()
	w.removed = true
	deadline := time.Now().Add(pod.Grace(w.pod, "", ""))
	switch {
	case w.end == nil:
		w.end = &pod.End{Deadline: deadline}
	case deadline.Before(w.end.Deadline):
		end := *w.end
		end.Deadline = deadline
		w.end = &end
	}
	w.mu.Unlock()
	w.poke()
}

// Orphan ends a pod that the runtime has and no source: it was deleted while no kubelet ran.
func (pl *Pool) Orphan(p *v1.Pod) {
	pl.turn.Lock()
	defer pl.turn.Unlock()
	pl.mu.Lock()
	defer pl.mu.Unlock()
	if pl.workers[p.UID] != nil {
		return
	}
	pl.cfg.Metrics.Orphaned()
	w := newWorker(&pl.cfg, p, false)
	w.remove()
	pl.workers[p.UID] = w
	pl.launch(p.UID, w)
}

// Changed makes the pod's worker look again, at what the runtime has of the pod as well.
func (pl *Pool) Changed(uid types.UID) {
	if w := pl.worker(uid); w != nil {
		w.changed()
	}
}

// Wake makes the pod's worker look again.
func (pl *Pool) Wake(uid types.UID) {
	if w := pl.worker(uid); w != nil {
		w.poke()
	}
}

// Retry is Wake, and what failed is tried again at once: an object it depends on has changed.
func (pl *Pool) Retry(uid types.UID) {
	if w := pl.worker(uid); w != nil {
		w.retryNow()
	}
}

// Evict ends a pod for the given reason. One that is ending already only ends sooner.
func (pl *Pool) Evict(uid types.UID, end pod.End) bool {
	w := pl.worker(uid)
	if w == nil {
		return false
	}
	w.mu.Lock()
	switch {
	case w.end == nil:
		w.end = &end
	case end.Deadline.Before(w.end.Deadline):
		sooner := *w.end
		sooner.Deadline = end.Deadline
		w.end = &sooner
	}
	w.mu.Unlock()
	w.poke()
	return true
}

func (pl *Pool) worker(uid types.UID) *worker {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.workers[uid]
}

// Has tells whether the pod has a worker, or is just being taken in.
func (pl *Pool) Has(uid types.UID) bool {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	return pl.workers[uid] != nil || pl.admitted == uid
}

// Pods lists all pods with their newest statuses, as copies.
func (pl *Pool) Pods() []*v1.Pod {
	pl.mu.Lock()
	defer pl.mu.Unlock()
	list := make([]*v1.Pod, 0, len(pl.workers))
	for _, w := range pl.workers {
		w.mu.Lock()
		p := w.pod.DeepCopy()
		w.status.DeepCopyInto(&p.Status)
		w.mu.Unlock()
		list = append(list, p)
	}
	return list
}
