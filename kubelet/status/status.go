// Package status writes the statuses of pods to the API.
//
// Each pod has at most one write under way. A status set meanwhile waits in a place for one, where a newer one replaces
// it: nothing is lost but what is out of date. A write that fails is repeated with a growing pause until it succeeds, the
// pod is gone, or the writer is closed.
//
// A status that only says that the pod is on its way (see onItsWay) lingers a moment, for most pods are further by then: so a
// pod that starts quickly is written once, where each write costs more of the machine than what it tells.
//
// A write is a strategic merge patch from the status last seen in the API to the new one, with the pod's UID in it, so
// that it can neither hit a pod that has taken the same name nor undo what others (a scheduler, readiness gates)
// have written beside us.
package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

// Config of a Writer.
type Config struct {
	// Client of the API; nil drops all statuses.
	Client kubernetes.Interface
	// Target gives the pod in the API that shows p's status: p itself, or the mirror of a static pod; nil when there is
	// none (yet).
	Target func(p *v1.Pod) *v1.Pod
	// Wrote is told how long a status took from the change to the API. Optional.
	Wrote func(took time.Duration)
	Log   *slog.Logger
}

// Writer writes statuses. Its methods are safe for concurrent use.
type Writer struct {
	cfg    Config
	ctx    func() context.Context
	cancel context.CancelFunc

	mu    sync.Mutex
	pods  map[types.UID]*entry
	group sync.WaitGroup
}

// entry is one pod's.
type entry struct {
	pod     *v1.Pod
	next    *v1.PodStatus // waits to be written
	due     time.Time     // when next is to be written; zero for at once
	since   time.Time     // of the first change that has not been written
	writing bool
	wrote   *v1.Pod // as the API answered last
	agreed  agreed
	hurry   chan struct{} // capacity one: next is due at once
	idle    chan struct{}
}

// hasten lets what waits be written at once. The writer's mutex is held.
func (e *entry) hasten() {
	e.due = time.Time{}
	select {
	case e.hurry <- struct{}{}:
	default:
	}
}

// New makes a writer.
func New(cfg Config) *Writer {
	ctx, cancel := context.WithCancel(context.Background())
	return &Writer{cfg: cfg, ctx: func() context.Context { return ctx }, cancel: cancel, pods: map[types.UID]*entry{}}
}

// Close ends all writes.
func (w *Writer) Close() {
	w.mu.Lock()
	w.cancel()
	w.mu.Unlock()
	w.group.Wait()
}

// Set lets the status be written as soon as possible, unless the API has it already.
func (w *Writer) Set(p *v1.Pod, st v1.PodStatus) {
	if w.cfg.Client == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ctx().Err() != nil {
		return
	}
	e := w.pods[p.UID]
	if e == nil {
		e = &entry{hurry: make(chan struct{}, 1)}
		w.pods[p.UID] = e
	}
	switch waiting := e.next != nil; {
	case !onItsWay(&st):
		e.hasten()
	case !waiting:
		e.due = time.Now().Add(linger)
	}
	e.pod, e.next = p, &st
	if e.since.IsZero() {
		e.since = time.Now()
	}
	if e.writing {
		return
	}
	e.writing, e.idle = true, make(chan struct{})
	w.group.Add(1)
	go w.write(w.ctx(), e)
}

// linger is how long a status that only says that a pod is on its way may wait to be overtaken by the next. Upstream's kubelet
// looks for the next once a second.
const linger = time.Second

// quiet are the reasons to wait of a container that nothing holds up: one that has been made and not started yet has none.
var quiet = map[string]bool{"PodInitializing": true, "ContainerCreating": true, "": true}

// onItsWay tells whether nothing has happened yet that anybody waits for: no container of the pod has run, and none is held up.
func onItsWay(st *v1.PodStatus) bool {
	if st.Phase != v1.PodPending {
		return false
	}
	for _, list := range [][]v1.ContainerStatus{st.InitContainerStatuses, st.ContainerStatuses, st.EphemeralContainerStatuses} {
		for i := range list {
			w := list[i].State.Waiting
			if w == nil || !quiet[w.Reason] || list[i].LastTerminationState.Terminated != nil {
				return false
			}
		}
	}
	return true
}

// Flush waits until nothing is left to be written for the pod.
func (w *Writer) Flush(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.pods[uid]
	if e == nil || !e.writing {
		w.mu.Unlock()
		return nil
	}
	e.hasten()
	idle := e.idle
	w.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Forget drops what is known of a pod that is gone.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.pods, uid)
}

const (
	firstPause = 100 * time.Millisecond
	mostPause  = 10 * time.Second
)

// write writes until nothing waits any more.
func (w *Writer) write(ctx context.Context, e *entry) {
	defer w.group.Done()
	pause := firstPause
	for {
		w.mu.Lock()
		if wait := time.Until(e.due); e.next != nil && wait > 0 && ctx.Err() == nil {
			w.mu.Unlock()
			pauseFor(ctx, wait, e.hurry)
			continue
		}
		p, st, since := e.pod, e.next, e.since
		e.next, e.since = nil, time.Time{}
		if st == nil || ctx.Err() != nil {
			e.writing = false
			close(e.idle)
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
		wrote, err := w.once(ctx, e, p, st)
		if err == nil {
			if wrote && w.cfg.Wrote != nil {
				w.cfg.Wrote(time.Since(since))
			}
			pause = firstPause
			continue
		}
		w.cfg.Log.Warn("cannot write pod status, will be tried again", "pod", p.Namespace+"/"+p.Name, "err", err)
		w.mu.Lock()
		if e.next == nil {
			e.next = st
		}
		e.since = since
		w.mu.Unlock()
		pauseFor(ctx, pause, nil)
		pause = min(2*pause, mostPause)
	}
}

// pauseFor pauses until the time is over, or sooner when there is hurry or ctx ends.
func pauseFor(ctx context.Context, pause time.Duration, hurry <-chan struct{}) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-hurry:
	case <-ctx.Done():
	}
}

// once writes one status, if it is news. That the pod is gone, or that it has no object in the API, is no error.
func (w *Writer) once(ctx context.Context, e *entry, p *v1.Pod, st *v1.PodStatus) (wrote bool, err error) {
	target := w.cfg.Target(p)
	if target == nil {
		return false, nil
	}
	base := newest(target, e.wrote)
	if base == target {
		e.wrote = nil // the source knows it by now
	}
	if e.agreed.with(base, st) {
		return false, nil
	}
	patch, err := Patch(base, st)
	if err != nil {
		return false, err
	}
	if patch == nil {
		e.agreed = agreed{base.ResourceVersion, st}
		return false, nil
	}
	got, err := w.cfg.Client.CoreV1().Pods(target.Namespace).Patch(ctx, target.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return false, nil // gone, or another pod has the name: the source will tell
	}
	if err != nil {
		return false, err
	}
	// Of the answer, which holds a whole pod, this is all that the next write needs.
	e.wrote = &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: got.UID, ResourceVersion: got.ResourceVersion}, Status: got.Status}
	e.agreed = agreed{got.ResourceVersion, st}
	return true, nil
}

// agreed is the status that the API's pod of that version says, as it was set: most passes of a worker set the same again, and to
// find that out by a patch costs more than the rest of the pass.
type agreed struct {
	version string
	status  *v1.PodStatus
}

// with tells whether base, which is the API's pod, says st. It keeps st, which is in use elsewhere, instead of the one it had.
func (a *agreed) with(base *v1.Pod, st *v1.PodStatus) bool {
	if a.status == nil || a.version == "" || a.version != base.ResourceVersion || !equality.Semantic.DeepEqual(a.status, st) {
		return false
	}
	a.status = st
	return true
}

// newest is the newer of what the source has seen and what the API answered to the last write.
func newest(seen, wrote *v1.Pod) *v1.Pod {
	if wrote == nil || wrote.UID != seen.UID {
		return seen
	}
	if newer, err := compare(wrote.ResourceVersion, seen.ResourceVersion); err == nil && newer <= 0 {
		return seen
	}
	return wrote
}

// compare orders two resource versions, which are numbers that grow (KEP-5504).
func compare(a, b string) (int, error) {
	var x, y uint64
	if _, err := fmt.Sscan(a, &x); err != nil {
		return 0, err
	}
	if _, err := fmt.Sscan(b, &y); err != nil {
		return 0, err
	}
	switch {
	case x < y:
		return -1, nil
	case x > y:
		return 1, nil
	}
	return 0, nil
}

// Patch makes the patch from the pod's status to st, nil when they are the same.
func Patch(p *v1.Pod, st *v1.PodStatus) ([]byte, error) {
	before, err := json.Marshal(v1.Pod{Status: p.Status})
	if err != nil {
		return nil, fmt.Errorf("marshal old status: %w", err)
	}
	after := v1.Pod{Status: *st}
	if after.Status.HostIP == "" {
		after.Status.HostIP, after.Status.HostIPs = p.Status.HostIP, p.Status.HostIPs
	}
	raw, err := json.Marshal(after)
	if err != nil {
		return nil, fmt.Errorf("marshal new status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, raw, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("compare statuses: %w", err)
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	var m map[string]any
	if err := json.Unmarshal(patch, &m); err != nil {
		return nil, fmt.Errorf("read patch: %w", err)
	}
	m["metadata"] = map[string]any{"uid": p.UID}
	return json.Marshal(m)
}
