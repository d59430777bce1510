package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/controlplane/scheduler/devices"
	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// waitTime is how long a provisioner may take to make the volumes of a pod, or a driver to make its devices ready.
const waitTime = 10 * time.Minute

// waiter is an assumed pod whose node is told to its claims, and that is bound once they all have a volume and the devices
// that it was given are ready.
type waiter struct {
	pod      *snapshot.Pod
	node     string
	grant    *devices.Grant // nil for none
	deadline time.Time
}

// place tells the API about a decision. If that fails, the pod leaves the node again and is retried.
func (s *Scheduler) place(ctx context.Context, p *snapshot.Pod, node string, grant *devices.Grant) {
	w := &waiter{pod: p, node: node, grant: grant, deadline: time.Now().Add(waitTime)}
	claims, refusal := filter.Claims(p.Object, s.stores)
	if refusal != nil {
		s.failed(ctx, w, refusal)
		return
	}
	wait, err := s.report.selectNode(ctx, claims, node)
	if err != nil {
		s.failed(ctx, w, err)
		return
	}
	waitDevices, err := granter{s}.grant(ctx, p, node, grant)
	if err != nil {
		s.failed(ctx, w, err)
		return
	}
	if wait || waitDevices {
		s.mu.Lock()
		if s.cluster.Pod(p.Object.UID) == p {
			s.waiting[p.Object.UID] = w
			s.poke() // they may have come meanwhile
		}
		s.mu.Unlock()
		return
	}
	s.bind(ctx, w)
}

func (s *Scheduler) bind(ctx context.Context, w *waiter) {
	pod, node := w.pod.Object, w.node
	err := s.cfg.Client.CoreV1().Pods(pod.Namespace).Bind(ctx, &v1.Binding{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Target:     v1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		s.failed(ctx, w, fmt.Errorf("bind to node %s: %w", node, err))
		return
	}
	s.report.events.Eventf(pod, nil, v1.EventTypeNormal, "Scheduled", "Binding",
		"Successfully assigned %v/%v to %v", pod.Namespace, pod.Name, node)
}

// failed takes an assumed pod off its node and has it tried again, unless it is gone.
func (s *Scheduler) failed(ctx context.Context, w *waiter, err error) {
	p := w.pod
	if w.grant != nil {
		if err := w.grant.Undo(ctx, s.cfg.Client); err != nil {
			slog.Error("scheduler: take devices back", "pod", p.Object.Namespace+"/"+p.Object.Name, "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cluster.Pod(p.Object.UID) == p {
		s.cluster.Remove(p.Object.UID)
		s.changed(filter.PodGone | filter.DevicesChanged)
	}
	if apierrors.IsNotFound(err) {
		s.forget(p.Object)
		return
	}
	s.queue.Retry(p.Object.UID, time.Now())
	s.poke()
	slog.Error("scheduler: place a pod", "pod", p.Object.Namespace+"/"+p.Object.Name, "err", err)
}

// resume looks at the pods that wait for volumes or devices: it binds those that have all of them, and tries those again
// whose claims cannot be used any more or took too long.
func (s *Scheduler) resume(ctx context.Context, now time.Time) {
	s.mu.Lock()
	var ready []*waiter
	lost := map[*waiter]error{}
	for uid, w := range s.waiting {
		claims, refusal := filter.Claims(w.pod.Object, s.stores)
		prepared, broken := true, error(nil)
		if w.grant != nil {
			prepared, broken = w.grant.Ready()
		}
		switch {
		case broken != nil:
			lost[w] = broken
		case refusal != nil:
			lost[w] = refusal
		case prepared && !slices.ContainsFunc(claims, unbound):
			ready = append(ready, w)
		case !w.deadline.After(now):
			lost[w] = fmt.Errorf("its volumes and devices were not ready in %v", waitTime)
		default:
			continue
		}
		delete(s.waiting, uid)
	}
	s.mu.Unlock()
	for _, w := range ready {
		s.write(func() { s.bind(ctx, w) })
	}
	for w, err := range lost {
		s.failed(ctx, w, err)
	}
}

func unbound(claim *v1.PersistentVolumeClaim) bool { return !filter.Bound(claim) }
