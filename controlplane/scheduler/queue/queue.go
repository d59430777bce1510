// Package queue orders the pods that wait for a node.
//
//	            Add                Pop
//	(new) ─────────────► active ─────────► taken ──► (bound, gone: Remove)
//	                       ▲  ▲              │
//	        Wake, time over│  │backoff over  │ Refuse          Retry
//	                       │  └───────────── │ ────────► backoff ◄─┐
//	                       └──── parked ◄────┴─────────────────────┘
//
// A refused pod is parked until a change that may help it; then it is asked about again, but not more often than its
// backoff allows while others wait. A pod whose scheduling failed for a reason that is not its own (the API was
// not reached) goes through backoff alone. A Queue has no lock and no clock: its user has both.
package queue

import (
	"container/heap"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

const (
	firstBackoff = time.Second
	lastBackoff  = 10 * time.Second
	// audit is how long a pod stays parked at most: it bounds the harm of a missed change.
	audit = 5 * time.Minute
)

type state int

const (
	active state = iota
	backoff
	parked
	taken
)

// entry is one pod that waits.
type entry struct {
	pod      *snapshot.Pod
	state    state
	index    int // in its heap
	since    time.Time
	order    uint64 // of equal pods the first comes first
	attempts int
	failed   bool      // the last attempt failed for a reason that is not the pod's
	until    time.Time // backoff: its end; parked: the audit
	helped   filter.Events
}

// Queue holds each waiting pod once.
type Queue struct {
	entries map[types.UID]*entry
	active  byPriority
	backoff byTime
	parked  map[types.UID]*entry
	audit   time.Time // no parked pod is due before
	counter uint64
}

// New returns an empty queue.
func New() *Queue {
	return &Queue{entries: map[types.UID]*entry{}, parked: map[types.UID]*entry{}}
}

// Len counts the pods in each state.
func (q *Queue) Len() (active, backoff, parked int) {
	return len(q.active), len(q.backoff), len(q.parked)
}

// Add takes a new pod, or a new version of one that waits. A parked pod is asked about again if what it wants changed,
// the names of claims that were made for it included; no other change of its status is a reason.
func (q *Queue) Add(p *snapshot.Pod, now time.Time) {
	e := q.entries[p.Object.UID]
	if e == nil {
		e = &entry{state: taken, since: now}
		q.entries[p.Object.UID] = e
		e.pod = p
		q.activate(e)
		return
	}
	old := e.pod
	e.pod = p
	switch {
	case e.state == active:
		heap.Fix(&q.active, e.index)
	case e.state == parked && wantsOther(old.Object, p.Object):
		q.wake(e, now)
	}
}

func wantsOther(a, b *v1.Pod) bool {
	return !maps.Equal(a.Labels, b.Labels) || !equality.Semantic.DeepEqual(a.Spec, b.Spec) ||
		!equality.Semantic.DeepEqual(a.Status.ResourceClaimStatuses, b.Status.ResourceClaimStatuses)
}

// Remove forgets a pod.
func (q *Queue) Remove(uid types.UID) {
	if e := q.entries[uid]; e != nil {
		q.detach(e)
		delete(q.entries, uid)
	}
}

// Pop takes the pod whose turn it is, or nil. While no pod is active, a refused pod need not wait for the end of
// its backoff: it delays nobody.
func (q *Queue) Pop(now time.Time) *snapshot.Pod {
	for len(q.backoff) > 0 && !q.backoff[0].until.After(now) {
		q.activate(q.backoff[0])
	}
	q.wakeOverdue(now)
	if len(q.active) == 0 {
		for _, e := range q.backoff {
			if !e.failed {
				q.activate(e)
				break
			}
		}
	}
	if len(q.active) == 0 {
		return nil
	}
	e := q.active[0]
	q.detach(e)
	e.attempts++
	e.failed = false
	e.since = now
	return e.pod
}

// Next is when the queue must be looked at again although nothing changed; zero if never.
func (q *Queue) Next() time.Time {
	var next time.Time
	if len(q.parked) > 0 {
		next = q.audit
	}
	if len(q.backoff) > 0 && (next.IsZero() || q.backoff[0].until.Before(next)) {
		next = q.backoff[0].until
	}
	return next
}

// Refuse parks a taken pod until one of the changes happens.
func (q *Queue) Refuse(uid types.UID, helped filter.Events, now time.Time) {
	e := q.entries[uid]
	if e == nil || e.state != taken {
		return
	}
	e.helped = helped
	e.state, e.until = parked, now.Add(audit)
	if len(q.parked) == 0 {
		q.audit = e.until
	}
	q.parked[uid] = e
}

// wakeOverdue wakes the pods that have been parked for too long.
func (q *Queue) wakeOverdue(now time.Time) {
	if len(q.parked) == 0 || q.audit.After(now) {
		return
	}
	q.audit = now.Add(audit)
	for _, e := range q.parked {
		if !e.until.After(now) {
			q.wake(e, now)
		} else if e.until.Before(q.audit) {
			q.audit = e.until
		}
	}
}

// Retry puts a taken pod into backoff after an error.
func (q *Queue) Retry(uid types.UID, now time.Time) {
	e := q.entries[uid]
	if e == nil || e.state != taken {
		return
	}
	e.failed = true
	q.delay(e, now)
}

// Wake asks again about each parked pod that one of the changes may help.
func (q *Queue) Wake(events filter.Events, now time.Time) {
	for _, e := range q.parked {
		if e.helped&events != 0 {
			q.wake(e, now)
		}
	}
}

func (q *Queue) wake(e *entry, now time.Time) {
	q.detach(e)
	q.delay(e, now)
}

// delay puts a detached entry where its backoff, counted from its last attempt, has it.
func (q *Queue) delay(e *entry, now time.Time) {
	wait := lastBackoff
	if shift := max(e.attempts-1, 0); shift < 4 {
		wait = min(firstBackoff<<shift, lastBackoff)
	}
	if e.until = e.since.Add(wait); !e.until.After(now) {
		q.activate(e)
		return
	}
	e.state = backoff
	heap.Push(&q.backoff, e)
}

func (q *Queue) activate(e *entry) {
	q.detach(e)
	q.counter++
	e.order = q.counter
	e.state = active
	heap.Push(&q.active, e)
}

// detach takes an entry out of wherever it is.
func (q *Queue) detach(e *entry) {
	switch e.state {
	case active:
		heap.Remove(&q.active, e.index)
	case backoff:
		heap.Remove(&q.backoff, e.index)
	case parked:
		delete(q.parked, e.pod.Object.UID)
	}
	e.state = taken
}
