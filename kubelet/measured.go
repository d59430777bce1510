package kubelet

import (
	"sync"
	"time"

	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/stats/groups"
)

// systemContainers measures the groups that are no pod's own: the kubelet's, the runtime's, the rest of the system's, and that of all
// pods. What is not configured, or has no group of its own, is left out.
func systemContainers(k *Kubelet) func() []v1alpha1.ContainerStats {
	c, began := k.cfg.Configuration, time.Now()
	meter := sync.OnceValue(func() *groups.Meter { // by whoever asks first
		layout, err := cgroup.Detect()
		if err != nil {
			k.log.Info("the cgroups of the system are not measured", "err", err)
			return nil
		}
		return groups.New(layout)
	})
	return func() []v1alpha1.ContainerStats {
		m, pods := meter(), k.cgroups.Load()
		if m == nil || pods == nil {
			return nil
		}
		own := c.KubeletCgroups
		if own == "" {
			own, _ = m.Layout().Own() // "" where it has none of its own
		}
		list := m.All([]groups.Named{{Name: v1alpha1.SystemContainerKubelet, Group: own}, {Name: v1alpha1.SystemContainerRuntime, Group: k.cfg.Command.RuntimeCgroups},
			{Name: v1alpha1.SystemContainerMisc, Group: c.SystemCgroups}, {Name: v1alpha1.SystemContainerPods, Group: (*pods).All()}}, time.Now())
		for i := range list {
			if list[i].Name == v1alpha1.SystemContainerKubelet {
				list[i].StartTime.Time = began
			}
		}
		return list
	}
}
