// Package reserve tells what of the machine is kept from pods (Node Allocatable in the Kubernetes documentation): what is
// reserved for the system and for the kubelet, and hard eviction thresholds. What is kept is not offered to the cluster, and
// where that is asked for, groups of processes are bounded to what is theirs. Pure.
package reserve

import (
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

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
	// memory and storage are thresholds: amounts ("100Mi") or shares of the capacity ("10%").
	memory, storage string
}

// Read reads it, and checks its quantities.
func Read(c *kubeletconfig.KubeletConfiguration) (Reservation, error) {
	r := Reservation{Fixed: v1.ResourceList{}}
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
	hard := HardThresholds(c)
	r.memory, r.storage = hard["memory.available"], hard["nodefs.available"]
	if c.ReservedSystemCPUs != "" {
		set, err := cpuset.Parse(c.ReservedSystemCPUs)
		if err != nil {
			errs = append(errs, fmt.Errorf("reservedSystemCPUs: %w", err))
		}
		r.Fixed[v1.ResourceCPU] = *resource.NewQuantity(int64(set.Size()), resource.DecimalSI)
	}
	for name, text := range map[string]string{"memory.available": r.memory, "nodefs.available": r.storage} {
		if _, err := threshold(text, resource.MustParse("1")); err != nil {
			errs = append(errs, fmt.Errorf("evictionHard: %s: %w", name, err))
		}
	}
	return r, errors.Join(errs...)
}

// Of gives what is kept out of capacity.
func (r Reservation) Of(capacity v1.ResourceList) v1.ResourceList {
	kept := v1.ResourceList{}
	for name, q := range r.Fixed {
		kept[name] = q.DeepCopy()
	}
	for name, text := range map[v1.ResourceName]string{v1.ResourceMemory: r.memory, v1.ResourceEphemeralStorage: r.storage} {
		q, err := threshold(text, capacity[name])
		if err != nil || q.IsZero() {
			continue // read once already, so it is well formed
		}
		sum := kept[name]
		sum.Add(q)
		kept[name] = sum
	}
	return kept
}

func threshold(text string, capacity resource.Quantity) (resource.Quantity, error) {
	if share, ok := strings.CutSuffix(text, "%"); ok {
		percent, err := strconv.ParseFloat(share, 64)
		if err != nil || percent < 0 || percent > 100 {
			return resource.Quantity{}, fmt.Errorf("%q is no percentage", text)
		}
		return *resource.NewQuantity(int64(float64(capacity.Value())*percent/100), resource.BinarySI), nil
	}
	if text == "" {
		return resource.Quantity{}, nil
	}
	return resource.ParseQuantity(text)
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
