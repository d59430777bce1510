package kubelet

import (
	"context"
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

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
			ProviderID: k.cfg.ProviderID, ExternalCloud: k.cfg.ExternalCloud, GivenIPs: k.cfg.NodeIPs, Port: c.Port, Unattached: !*c.EnableControllerAttachDetach, KubeletVersion: k.cfg.Version},
		Capacity: node.Capacity{MaxPods: int64(c.MaxPods), Root: k.cfg.RootDir, NoStorage: !*c.LocalStorageCapacityIsolation, Reserved: k.facts.reserved, Devices: k.facts.assigned.Capacity, Anew: k.facts.assigned.Anew},
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
		if left, ok := list[name]; ok {
			left.Sub(q)
			list[name] = left
		}
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
	offered(list)
	return list
}

// offered adds that there is nothing of what only this node could look after, and does not: so there is none to ask for.
func offered(list v1.ResourceList) {
	if _, counted := list[v1.ResourceEphemeralStorage]; !counted {
		list[v1.ResourceEphemeralStorage] = resource.Quantity{}
	}
}
