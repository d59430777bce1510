// Package scheduler finds a node for each pod that has none.
//
// It keeps a picture of the cluster (package snapshot) from informers, and the waiting pods in a queue (package
// queue). One goroutine takes a pod at a time, asks the rules which nodes can run it (package filter), takes the best
// of them (package score), and counts the pod there at once, while the API is told in the background. If no node
// can run the pod, pods of lower priority may have to go (package preempt); otherwise the pod is parked until a
// change that may help. Nothing polls.
//
// Decisions are the same as those of the default profile of Kubernetes' scheduler, except for per-node volume limits
// and static volumes for claims that wait for their first consumer, which are not known here yet.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"

	"github.com/skiff-node/skiff/controlplane/scheduler/devices"
	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/queue"
	"github.com/skiff-node/skiff/controlplane/scheduler/score"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// Config says for whom the scheduler works.
type Config struct {
	Client    kubernetes.Interface            // required
	Informers informers.SharedInformerFactory // required; started by Run if it is not yet
	Name      string                          // schedulerName of the pods it serves; default "default-scheduler"
	Writers   int                             // requests to the API at a time; default 16
}

// Scheduler is one scheduler. Make it with New and let it Run once.
type Scheduler struct {
	cfg     Config
	report  reporter
	stores  stores
	devices *devices.Allocator
	decider decider

	mu      sync.Mutex // guards what follows, and decider
	cluster *snapshot.Cluster
	queue   *queue.Queue
	waiting map[types.UID]*waiter // assumed pods that wait for their volumes or devices

	wake    chan struct{} // capacity 1
	writers chan struct{} // a token per request
	writing sync.WaitGroup
}

// New checks the configuration and asks the informers for what the scheduler reads.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Client == nil {
		return nil, errors.New("scheduler: Client is missing")
	}
	if cfg.Informers == nil {
		return nil, errors.New("scheduler: Informers is missing")
	}
	if cfg.Name == "" {
		cfg.Name = "default-scheduler"
	}
	if cfg.Writers <= 0 {
		cfg.Writers = 16
	}
	s := &Scheduler{
		cfg:     cfg,
		cluster: snapshot.NewCluster(),
		queue:   queue.New(),
		waiting: map[types.UID]*waiter{},
		wake:    make(chan struct{}, 1),
		writers: make(chan struct{}, cfg.Writers),
	}
	s.stores, s.devices = newStores(cfg.Informers, s.cluster), devices.New(newResourceStores(cfg.Informers))
	s.decider = decider{
		filters:   filter.World{Cluster: s.cluster, Volumes: s.stores, Devices: deviceRules{s.devices}},
		scores:    score.World{Cluster: s.cluster, Siblings: s.stores.siblings, Devices: s.devices.Scores},
		nominated: nominations{},
		budgets:   s.stores.budgets,
		pick:      rand.IntN,
	}
	return s, nil
}

// Run schedules pods until ctx ends, and returns its error after the last request has ended.
func (s *Scheduler) Run(ctx context.Context) error {
	broadcaster := events.NewBroadcaster(&events.EventSinkImpl{Interface: s.cfg.Client.EventsV1()})
	if err := broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("scheduler: start recording events: %w", err)
	}
	defer broadcaster.Shutdown()
	s.report = reporter{client: s.cfg.Client, events: broadcaster.NewRecorder(scheme.Scheme, s.cfg.Name), name: s.cfg.Name}

	remove, synced, err := s.watch()
	if err != nil {
		return fmt.Errorf("scheduler: watch: %w", err)
	}
	defer remove()
	s.cfg.Informers.StartWithContext(ctx)
	if !cache.WaitFor(ctx, "", synced...) {
		return ctx.Err()
	}
	defer s.writing.Wait()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		s.resume(ctx, time.Now())
		for s.step(ctx) {
		}
		timer.Reset(s.nextTurn())
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// nextTurn is how long the loop may sleep.
func (s *Scheduler) nextTurn() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.queue.Next()
	for _, w := range s.waiting {
		if next.IsZero() || w.deadline.Before(next) {
			next = w.deadline
		}
	}
	if next.IsZero() {
		return time.Hour
	}
	return max(time.Until(next), time.Millisecond)
}

// step decides about one pod. It returns false when none is due.
func (s *Scheduler) step(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	s.mu.Lock()
	now := time.Now()
	p := s.queue.Pop(now)
	if p == nil {
		s.mu.Unlock()
		return false
	}
	d, grant := granter{s}.reserve(p, s.decider.decide(p))
	if d.Node != "" {
		s.cluster.Put(p, d.Node)
		s.decider.nominated.remove(p)
	} else {
		s.queue.Refuse(p.Object.UID, d.Helped, now)
		if d.Preempt != nil {
			s.decider.nominated.add(p, d.Preempt.Node.Name())
		}
	}
	s.mu.Unlock()

	s.write(func() {
		if d.Node != "" {
			s.place(ctx, p, d.Node, grant)
			return
		}
		s.report.refuse(ctx, p, d)
		granter{s}.unstick(ctx, p.Object)
	})
	return true
}

// write runs a request in the background once a writer is free. Waiting here slows decisions down to what the
// API takes.
func (s *Scheduler) write(request func()) {
	s.writers <- struct{}{}
	s.writing.Add(1)
	go func() {
		defer func() {
			<-s.writers
			s.writing.Done()
		}()
		request()
	}()
}

// changed wakes the pods that a change may help, and the loop. The caller holds the lock.
func (s *Scheduler) changed(events filter.Events) {
	s.queue.Wake(events, time.Now())
	s.poke()
}

func (s *Scheduler) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}
