package scheduler

import (
	"log/slog"
	"maps"
	"reflect"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// watch hangs the scheduler's handlers on the informers. It returns how to take them off, and what must be in
// sync before the first decision.
func (s *Scheduler) watch() (remove func(), synced []cache.DoneChecker, err error) {
	core, storage, resource := s.cfg.Informers.Core().V1(), s.cfg.Informers.Storage().V1(), s.cfg.Informers.Resource().V1()
	claims := granter{s}
	volumes := onAny(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed(filter.VolumeChanged) // the loop also looks at the pods that wait for volumes
	})
	var undo []func() error
	remove = func() {
		for _, u := range undo {
			if err := u(); err != nil {
				slog.Error("scheduler: take a handler off", "err", err)
			}
		}
	}
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
		needed   bool // before the first decision
	}{
		{core.Namespaces().Informer(), on(s.setNamespace, s.removeNamespace), true},
		{core.Nodes().Informer(), on(s.setNode, s.removeNode), true},
		{core.Pods().Informer(), on(s.setPod, s.removePod), true},
		{core.PersistentVolumeClaims().Informer(), volumes, false},
		{core.PersistentVolumes().Informer(), volumes, false},
		{storage.StorageClasses().Informer(), volumes, false},
		{resource.ResourceClaims().Informer(), on(claims.setClaim, claims.removeClaim), true}, // or devices would be given away twice
		{resource.DeviceClasses().Informer(), onAny(claims.changed), false},
		{resource.ResourceSlices().Informer(), onAny(claims.changed), false},
		{resource.DeviceTaintRules().Informer(), onAny(claims.changed), false},
	} {
		r, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			remove()
			return nil, nil, err
		}
		undo = append(undo, func() error { return h.informer.RemoveEventHandler(r) })
		if h.needed {
			synced = append(synced, r.HasSyncedChecker())
		}
	}
	return remove, synced, nil
}

// on makes a handler from one function for what is and one for what is gone.
func on[T any](set, gone func(T)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { set(obj.(T)) },
		UpdateFunc: func(_, obj any) { set(obj.(T)) },
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			if last, ok := obj.(T); ok {
				gone(last)
			}
		},
	}
}

func onAny(changed func()) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { changed() },
		UpdateFunc: func(any, any) { changed() },
		DeleteFunc: func(any) { changed() },
	}
}

func (s *Scheduler) setNamespace(ns *v1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := maps.Equal(s.cluster.NamespaceLabels(ns.Name), ns.Labels)
	s.cluster.SetNamespace(ns)
	if !same {
		s.changed(filter.NamespaceChanged)
	}
}

func (s *Scheduler) removeNamespace(ns *v1.Namespace) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.RemoveNamespace(ns.Name)
}

func (s *Scheduler) setNode(n *v1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.cluster.Node(n.Name)
	if old == nil {
		s.cluster.SetNode(n)
		s.changed(filter.NodeAdded)
		return
	}
	before := old.Object
	s.cluster.SetNode(n)
	if before.Spec.Unschedulable != n.Spec.Unschedulable || !maps.Equal(before.Labels, n.Labels) ||
		!reflect.DeepEqual(before.Spec.Taints, n.Spec.Taints) ||
		!reflect.DeepEqual(before.Status.Allocatable, n.Status.Allocatable) {
		s.changed(filter.NodeChanged)
	}
}

func (s *Scheduler) removeNode(n *v1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.RemoveNode(n.Name)
}

func (s *Scheduler) setPod(pod *v1.Pod) {
	switch {
	case pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed:
		s.removePod(pod)
	case pod.Spec.NodeName != "":
		s.placed(pod)
	case pod.Spec.SchedulerName == s.cfg.Name:
		s.pending(pod)
	}
}

// removePod forgets a pod, whatever it was doing.
func (s *Scheduler) removePod(pod *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(pod)
	if s.cluster.Pod(pod.UID) != nil {
		s.cluster.Remove(pod.UID)
		s.changed(filter.PodGone)
	}
}

// forget drops a pod from among those that wait. The caller holds the lock.
func (s *Scheduler) forget(pod *v1.Pod) {
	s.queue.Remove(pod.UID)
	s.decider.nominated.remove(&snapshot.Pod{Object: pod})
	delete(s.waiting, pod.UID)
}

// placed records a pod that the API says is on a node.
func (s *Scheduler) placed(pod *v1.Pod) {
	p := parse(pod)
	if p == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(pod)
	old := s.cluster.Pod(pod.UID)
	s.cluster.Put(p, pod.Spec.NodeName)
	switch {
	case old == nil || !maps.Equal(old.Object.Labels, pod.Labels):
		s.changed(filter.PodPlaced)
	case !reflect.DeepEqual(old.Requests, p.Requests):
		s.changed(filter.PodGone) // it may have given something back
	}
}

// pending queues a pod that has no node yet.
func (s *Scheduler) pending(pod *v1.Pod) {
	p := parse(pod)
	if p == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.cluster.Pod(pod.UID) != nil: // assumed, the binding is under way
	case pod.DeletionTimestamp != nil, len(pod.Spec.SchedulingGates) > 0:
		s.forget(pod)
	default:
		if pod.Status.NominatedNodeName != "" {
			s.decider.nominated.add(p, pod.Status.NominatedNodeName)
		}
		s.queue.Add(p, time.Now())
		s.poke()
	}
}

func parse(pod *v1.Pod) *snapshot.Pod {
	p, err := snapshot.NewPod(pod)
	if err != nil {
		slog.Error("scheduler: a pod cannot be understood", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	return p
}
