package kubelet

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/admit"
	"github.com/skiff-node/skiff/kubelet/pod/resize"
	"github.com/skiff-node/skiff/kubelet/preempt"
	"github.com/skiff-node/skiff/kubelet/runtime/spec"
	"github.com/skiff-node/skiff/kubelet/shutdown"
	"github.com/skiff-node/skiff/kubelet/worker"
)

// admission decides about new pods and about changes of the resources of running ones.
type admission Kubelet

// admit decides whether a new pod fits the node.
func (k *admission) admit(p *v1.Pod, static bool, active []*v1.Pod) *pod.End {
	if len(k.guard.problems()) > 0 {
		return &pod.End{Deadline: time.Now(), Phase: v1.PodFailed, Rejected: true, Reason: shutdown.ReasonRejected, Message: shutdown.MessageRejected}
	}
	if r := k.facts.assigned.Admit(p); r != nil {
		return k.refuse(p, r.Reason, r.Message)
	}
	refusal := k.preemption().Check(p, static, active, admit.Node{Object: (*Kubelet)(k).nodeObject(), Allocatable: k.admissible(),
		UnsafeSysctls: k.cfg.Configuration.AllowedUnsafeSysctls, Pressure: k.guard.evict.Conditions(), AppArmor: k.facts.apparmor})
	if refusal != nil {
		k.facts.assigned.Release(p.UID)
		return k.refuse(p, refusal.Reason, refusal.Message)
	}
	return nil
}

// preemption makes room for critical pods.
func (k *admission) preemption() preempt.Admission {
	return preempt.Admission{Config: preempt.Config{Evict: k.pool.Evict, Ended: func(uid types.UID) <-chan struct{} { return worker.Ended(k.pool, uid) }, Event: k.events.Warning, Preempted: k.metrics.Pods.Preempted, Stopped: k.stopped}}
}

// refuse is how a pod ends that the node does not take in.
func (k *admission) refuse(p *v1.Pod, reason, message string) *pod.End {
	k.log.Warn("pod rejected", "pod", p.Namespace+"/"+p.Name, "reason", reason, "message", message)
	return &pod.End{Deadline: time.Now(), Phase: v1.PodFailed, Rejected: true, Reason: reason, Message: "Pod was rejected: " + message}
}

// extra is what a container gets of what its pod has been given.
func (k *admission) extra(ctx context.Context, p *v1.Pod, c *v1.Container) (*spec.Extra, error) {
	return k.facts.assigned.Extra(ctx, p, c)
}

// resize decides whether a running pod gets other resources.
func (k *admission) resize(p *v1.Pod, granted resize.Allocation, others []*v1.Pod) *resize.Refusal {
	cpus, memory := k.facts.assigned.Fixed()
	return resize.Decide(p, granted, others, resize.Node{Allocatable: (*Kubelet)(k).allocatable(), ExclusiveCPUs: cpus, ExclusiveMemory: memory, Swaps: k.facts.usage.Swaps})
}
