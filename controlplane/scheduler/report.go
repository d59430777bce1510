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
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/preempt"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// reporter writes to the API what the scheduler has to say.
type reporter struct {
	client kubernetes.Interface
	events events.EventRecorder
	name   string
}

// refuse tells the user why a pod has no node, and asks victims, if any, to leave.
func (r *reporter) refuse(ctx context.Context, p *snapshot.Pod, d decision) {
	pod := p.Object
	r.events.Eventf(pod, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", d.Message)
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
	if err := r.patchStatus(ctx, pod, status); err != nil && !apierrors.IsNotFound(err) {
		slog.Error("scheduler: report why a pod has no node", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
	if d.Preempt == nil {
		return
	}
	if err := r.evict(ctx, p, d.Preempt); err != nil {
		slog.Error("scheduler: make room for a pod", "pod", pod.Namespace+"/"+pod.Name, "err", err)
	}
}

// evict asks the victims to leave. Their going wakes the pod.
func (r *reporter) evict(ctx context.Context, p *snapshot.Pod, c *preempt.Choice) error {
	for _, v := range c.Victims {
		pod := v.Object
		if pod.DeletionTimestamp != nil {
			continue
		}
		err := r.patchStatus(ctx, pod, map[string]any{"conditions": []v1.PodCondition{{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonPreemptionByScheduler,
			Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", r.name),
			ObservedGeneration: pod.Generation, LastTransitionTime: metav1.Now(),
		}}})
		if err == nil {
			err = r.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name,
				metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
		}
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("preempt %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		r.events.Eventf(pod, p.Object, v1.EventTypeNormal, "Preempted", "Preempting",
			"Preempted by pod %v on node %v", p.Object.UID, c.Node.Name())
	}
	return nil
}

// patchStatus merges fields into a pod's status, unless the pod is another one of the same name by now.
func (r *reporter) patchStatus(ctx context.Context, pod *v1.Pod, status map[string]any) error {
	if len(status) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return err
	}
	_, err = r.client.CoreV1().Pods(pod.Namespace).
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

// selectNode writes the chosen node on those claims that wait for their first consumer, which is the
// provisioner's sign to start. It says whether there are any.
func (r *reporter) selectNode(ctx context.Context, claims []*v1.PersistentVolumeClaim, node string) (wait bool, err error) {
	for _, claim := range claims {
		if filter.Bound(claim) {
			continue
		}
		wait = true
		if claim.Annotations[volume.AnnSelectedNode] == node {
			continue
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": claim.UID, "annotations": map[string]string{volume.AnnSelectedNode: node},
		}})
		if err != nil {
			return false, err
		}
		_, err = r.client.CoreV1().PersistentVolumeClaims(claim.Namespace).
			Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil {
			return false, fmt.Errorf("tell claim %s the node: %w", claim.Name, err)
		}
	}
	return wait, nil
}
