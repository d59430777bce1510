package kubelet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/node"
)

// newNode makes what registers the node and keeps its object current. Without an API server there is nothing to keep.
func (k *Kubelet) newNode() error {
	if k.client == nil || !*k.cfg.Configuration.RegisterNode {
		return nil
	}
	c := k.cfg.Configuration
	calls, images := k.runtime.CRI()
	var err error
	k.node, err = node.New(node.Config{
		Client: k.client,
		Identity: node.Identity{Name: k.cfg.NodeName, IPs: k.facts.ips, Labels: k.cfg.Labels, Taints: k.cfg.Taints,
			ProviderID: k.cfg.ProviderID, ExternalCloud: k.cfg.ExternalCloud, GivenIPs: k.cfg.NodeIPs, Port: c.Port, KubeletVersion: k.cfg.Version},
		Capacity: node.Capacity{MaxPods: int64(c.MaxPods), Root: k.cfg.RootDir, Reserved: k.facts.reserved, Devices: k.facts.assigned.Capacity},
		Runtime:  calls, Images: images,
		MaxImages:    int(*c.NodeStatusMaxImages),
		Metrics:      k.metrics.Node,
		VolumesInUse: k.volumes.inUse,
		PodCIDRs:     podCIDRs(calls), Pressure: k.guard.pressure, Problems: k.guard.problems,
		Event: func(kind, reason, message string) {
			k.events.Node(k.cfg.NodeName, kind, reason, message)
		},
		Period: c.NodeStatusUpdateFrequency.Duration, ReportPeriod: c.NodeStatusReportFrequency.Duration,
		LeaseSeconds: c.NodeLeaseDurationSeconds, Log: k.log,
	})
	return err
}

// podCIDRs passes the node's pod ranges on to the runtime, which gives them to its network.
func podCIDRs(calls cri.RuntimeServiceClient) func(context.Context, []string) error {
	return func(ctx context.Context, cidrs []string) error {
		_, err := calls.UpdateRuntimeConfig(ctx, &cri.UpdateRuntimeConfigRequest{RuntimeConfig: &cri.RuntimeConfig{
			NetworkConfig: &cri.NetworkConfig{PodCidr: strings.Join(cidrs, ",")}}})
		return err
	}
}

// nodeObject is the node as last seen in the API, nil when it is not known.
func (k *Kubelet) nodeObject() *v1.Node {
	if k.node == nil {
		return nil
	}
	return k.node.Node()
}

func (k *Kubelet) nodeUID() types.UID {
	if n := k.nodeObject(); n != nil {
		return n.UID
	}
	return ""
}

// allocatable is what pods may have of the machine.
func (k *Kubelet) allocatable() v1.ResourceList {
	if k.node != nil {
		return k.node.Allocatable()
	}
	list := k.facts.capacity(k.cfg.Configuration.MaxPods)
	for name, q := range k.facts.reserved(list) {
		left := list[name]
		left.Sub(q)
		list[name] = left
	}
	_, devices := k.facts.assigned.Capacity()
	maps.Copy(list, devices)
	return list
}

// admissible is what a new pod finds: what pods may have, extended resources that others advertise for the node, and of devices
// no less than pods have already.
func (k *admission) admissible() v1.ResourceList {
	list := (*Kubelet)(k).allocatable()
	if n := (*Kubelet)(k).nodeObject(); n != nil {
		for name, q := range n.Status.Allocatable {
			if _, ours := list[name]; !ours && strings.Contains(string(name), "/") {
				list[name] = q
			}
		}
	}
	k.facts.assigned.Admissible(list)
	return list
}

// reservation is what the configuration keeps from pods: kubeReserved, systemReserved and the hard eviction thresholds.
type reservation struct {
	fixed v1.ResourceList
	// memory and storage are thresholds: amounts ("100Mi") or shares of the capacity ("10%").
	memory, storage string
}

func readReservation(c *kubeletconfig.KubeletConfiguration) (reservation, error) {
	r := reservation{fixed: v1.ResourceList{}}
	var errs []error
	for field, list := range map[string]map[string]string{"kubeReserved": c.KubeReserved, "systemReserved": c.SystemReserved} {
		for name, text := range list {
			q, err := resource.ParseQuantity(text)
			if err != nil {
				errs = append(errs, fmt.Errorf("%s: %s: %q is no quantity", field, name, text))
				continue
			}
			sum := r.fixed[v1.ResourceName(name)]
			sum.Add(q)
			r.fixed[v1.ResourceName(name)] = sum
		}
	}
	hard := hardThresholds(c)
	r.memory, r.storage = hard["memory.available"], hard["nodefs.available"]
	if c.ReservedSystemCPUs != "" {
		set, err := cpuset.Parse(c.ReservedSystemCPUs)
		if err != nil {
			errs = append(errs, fmt.Errorf("reservedSystemCPUs: %w", err))
		}
		r.fixed[v1.ResourceCPU] = *resource.NewQuantity(int64(set.Size()), resource.DecimalSI)
	}
	for name, text := range map[string]string{"memory.available": r.memory, "nodefs.available": r.storage} {
		if _, err := threshold(text, resource.MustParse("1")); err != nil {
			errs = append(errs, fmt.Errorf("evictionHard: %s: %w", name, err))
		}
	}
	return r, errors.Join(errs...)
}

// of gives what is kept out of capacity.
func (r reservation) of(capacity v1.ResourceList) v1.ResourceList {
	kept := v1.ResourceList{}
	for name, q := range r.fixed {
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
