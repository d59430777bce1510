// Package reserve tells what of the machine is kept from pods (Node Allocatable in the Kubernetes documentation): what is
// reserved for the system and for the kubelet, and hard eviction thresholds. What is kept is not offered to the cluster, and
// where that is asked for, groups of processes are bounded to what is theirs. Pure.
package reserve

import (
	"errors"
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/evict"
)

// Reservation is what the configuration keeps from pods: kubeReserved, systemReserved and the hard eviction thresholds.
type Reservation struct {
	// Fixed is what is reserved for the system and the kubelet, whatever the machine has.
	Fixed v1.ResourceList
	// hard are the thresholds of what can be kept from pods, by what they are about.
	hard map[v1.ResourceName]evict.Threshold
}

// Read reads it, and checks its quantities.
func Read(c *kubeletconfig.KubeletConfiguration) (Reservation, error) {
	r := Reservation{Fixed: v1.ResourceList{}, hard: map[v1.ResourceName]evict.Threshold{}}
	var errs []error
	for field, list := range map[string]map[string]string{"kubeReserved": c.KubeReserved, "systemReserved": c.SystemReserved} {
		for name, text := range list {
			q, err := resource.ParseQuantity(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %q is no quantity", field, name, text))
				continue
			}
			sum := r.Fixed[v1.ResourceName(name)]
			sum.Add(q)
			r.Fixed[v1.ResourceName(name)] = sum
		}
	}
	hard, err := evict.Parse(evict.Settings{Hard: HardThresholds(c)})
	errs = append(errs, err)
	for _, t := range hard {
		switch t.Signal {
		case evict.Memory:
			r.hard[v1.ResourceMemory] = t
		case evict.NodeFs:
			r.hard[v1.ResourceEphemeralStorage] = t
		}
	}
	if c.ReservedSystemCPUs != "" {
		set, err := cpuset.Parse(c.ReservedSystemCPUs)
		if err != nil {
			errs = append(errs, fmt.Errorf("reservedSystemCPUs: %w", err))
		}
		r.Fixed[v1.ResourceCPU] = *resource.NewQuantity(int64(set.Size()), resource.DecimalSI)
	}
	return r, errors.Join(errs...)
}

// Of gives what is kept out of capacity.
func (r Reservation) Of(capacity v1.ResourceList) v1.ResourceList {
	kept := v1.ResourceList{}
	for name, q := range r.Fixed {
		kept[name] = q.DeepCopy()
	}
	for name, t := range r.hard {
		has, sum := capacity[name], kept[name]
		sum.Add(*resource.NewQuantity(t.Of(has.Value()), resource.BinarySI))
		kept[name] = sum
	}
	return kept
}

// HardThresholds are the configured ones, upstream's when there are none, and both when that is asked for.
func HardThresholds(c *kubeletconfig.KubeletConfiguration) map[string]string {
	if c.EvictionHard == nil {
		return evict.Defaults()
	}
	if !*c.MergeDefaultEvictionSettings {
		return c.EvictionHard
	}
	merged := evict.Defaults()
	maps.Copy(merged, c.EvictionHard)
	return merged
}
