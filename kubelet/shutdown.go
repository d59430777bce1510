package kubelet

import (
	"context"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/shutdown"
)

// shutdownGroups are the configured ones: by priority, or ordinary and critical pods.
func shutdownGroups(c *kubeletconfig.KubeletConfiguration) []shutdown.Group {
	var groups []shutdown.Group
	for _, g := range c.ShutdownGracePeriodByPodPriority {
		groups = append(groups, shutdown.Group{Priority: g.Priority, Grace: time.Duration(g.ShutdownGracePeriodSeconds) * time.Second})
	}
	if all := c.ShutdownGracePeriod.Duration; all > 0 {
		critical := c.ShutdownGracePeriodCriticalPods.Duration
		groups = append(groups, shutdown.Group{Grace: all - critical}, shutdown.Group{Priority: pod.CriticalFrom, Grace: critical})
	}
	return groups
}

// newShutdown makes what ends pods in order when the machine goes down, where that is configured and there is a logind.
func newShutdown(k *Kubelet) {
	groups := shutdownGroups(k.cfg.Configuration)
	if len(groups) == 0 {
		return
	}
	bus := &shutdown.Bus{}
	k.guard.shutdown = shutdown.New(shutdown.Config{
		Logind: bus, Groups: groups, Log: k.log,
		Pods: func() []*v1.Pod {
			return slices.DeleteFunc(k.pool.Pods(), func(p *v1.Pod) bool {
				return pod.Terminal(p.Status.Phase)
			})
		},
		End:   func(p *v1.Pod, grace time.Duration) { k.pool.Evict(p.UID, shutdownEnd(grace, time.Now())) },
		Ended: func() { k.metrics.Node.ShuttingDown(false) },
		Changed: func(shutting bool) {
			what := "Shutdown manager detected shutdown cancellation"
			if shutting {
				what = "Shutdown manager detected shutdown event"
				k.metrics.Node.ShuttingDown(true)
			}
			k.events.Node(k.cfg.NodeName, v1.EventTypeNormal, "NodeShutdown", what)
			if k.node != nil {
				k.node.Wake()
			}
		},
	})
	k.loops["shutdown"] = func(ctx context.Context) error {
		defer bus.Close()
		if err := bus.Present(ctx); err != nil {
			k.log.Warn("shutdownGracePeriod has no effect", "err", err)
			<-ctx.Done()
			return nil
		}
		return k.guard.shutdown.Run(ctx)
	}
}

// shutdownEnd is how a pod ends when the machine goes down.
func shutdownEnd(grace time.Duration, now time.Time) pod.End {
	return pod.End{Deadline: now.Add(grace), Phase: v1.PodFailed, Reason: shutdown.Reason, Message: shutdown.Message,
		Condition: &v1.PodCondition{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet,
			Message: shutdown.Message, LastTransitionTime: metav1.NewTime(now)}}
}

// problems keep the node from being ready, beside the runtime's.
func (g *guard) problems() []error {
	if g.shutdown != nil && g.shutdown.Shutting() {
		return []error{shutdown.ErrShuttingDown}
	}
	return nil
}
