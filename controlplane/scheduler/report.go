package scheduler

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/controlplane/scheduler/preempt"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// refuse tells the user why a pod has no node, and asks victims, if any, to leave.
func (s *Scheduler) refuse(ctx context.Context, p *snapshot.Pod, d decision) {
	pod := p.Object
	s.events.Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", d.Message)
	status := map[string]any{}
	condition := v1.PodCondition{
		Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: v1.PodReasonUnschedulable, Message: d.Message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
	}
	if old := find(pod, v1.PodScheduled); old == nil || old.Status != condition.Status || old.Reason != condition.Reason || old.Message != condition.Message {
		if old != nil && old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
		status["conditions"] = []v1.PodCondition{condition}
	}
	if d.Preempt != nil && pod.Status.NominatedNodeName != d.Preempt.Node.Name() {
		status["nominatedNodeName"] = d.Preempt.Node.Name()
	}
	if err := s.patchStatus(ctx, pod, status); err != nil && !apierrors.IsNotFound(err) {
		slog.Error("scheduler: report why a pod has no node", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	if d.Preempt == nil {
		return
	}
	if err := s.evict(ctx, p, d.Preempt); err != nil {
		slog.Error("scheduler: make room for a pod", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// evict asks the victims to leave. Their going wakes the pod.
func (s *Scheduler) evict(ctx context.Context, p *snapshot.Pod, c *preempt.Choice) error {
	for _, v := range c.Victims {
		pod := v.Object
		if pod.DeletionTimestamp != nil {
			continue
		}
		err := s.patchStatus(ctx, pod, map[string]any{"conditions": []v1.PodCondition{{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler,
			Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", s.cfg.Name),
			ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
		}}})
		if err == nil {
			err = s.cfg.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name,
				metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		}
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("preempt %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		s.events.Eventf(pod, p.Object, v1.EventTypeNormal, "Preempted", "Preempting",
			"Preempted by pod %v on node %v", p.Object.UID, c.Node.Name())
	}
	return nil
}

// patchStatus merges fields into a pod's status, unless the pod is another one of the same name by now.
func (s *Scheduler) patchStatus(ctx context.Context, pod *v1.Pod, status map[string]any) error {
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = s.cfg.Client.CoreV1().Pods(pod.Namespace).
		Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

func find(pod *v1.Pod, kind v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}
