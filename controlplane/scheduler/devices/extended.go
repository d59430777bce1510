package devices

import (
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Backs tells whether a node without a device plugin for it can have an extended resource by claims.
func (a *Allocator) Backs(name v1.ResourceName, n *v1.Node) bool {
	q := n.Status.Allocatable[name]
	return q.IsZero() && classes(a.world.Classes()).forResource(name) != nil
}

// claimed are the extended resources of a pod for which there is a device class.
func (a *Allocator) claimed(p *v1.Pod) map[v1.ResourceName]int64 {
	if !mayClaim(p.Spec.Containers) && !mayClaim(p.Spec.InitContainers) {
		return nil
	}
	var out map[v1.ResourceName]int64
	for name, q := range resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}) {
		if native(name) || q.IsZero() || classes(a.world.Classes()).forResource(name) == nil {
			continue
		}
		if out == nil {
			out = map[v1.ResourceName]int64{}
		}
		out[name] = q.Value()
	}
	return out
}

// mayClaim tells whether containers ask for more than every node has.
func mayClaim(list []v1.Container) bool {
	for i := range list {
		for name := range list[i].Resources.Requests {
			if !native(name) {
				return true
			}
		}
	}
	return false
}

func native(name v1.ResourceName) bool {
	return name == v1.ResourceCPU || name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage
}

// own finds the claim that was made for the pod's extended resources.
func (a *Allocator) own(p *v1.Pod) *resourceapi.ResourceClaim {
	for _, c := range a.world.Claims() {
		if c.Annotations[resourceapi.ExtendedResourceClaimAnnotation] == "true" && metav1.IsControlledBy(c, p) {
			return c
		}
	}
	return nil
}

// ownClaim is a claim to be made for a pod's extended resources, and which container has what of it.
type ownClaim struct {
	claim    *resourceapi.ResourceClaim
	mappings []v1.ContainerExtendedResourceRequest
}

// ownClaim is nil when the node has all of the pod's extended resources by device plugins.
func (pl *Plan) ownClaim(n *v1.Node) *ownClaim {
	needed := map[v1.ResourceName]int64{}
	for name, amount := range pl.extended {
		if q := n.Status.Allocatable[name]; q.IsZero() {
			needed[name] = amount
		}
	}
	if len(needed) == 0 {
		return nil
	}
	controller := true
	own := &ownClaim{claim: &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: pl.pod.Namespace, GenerateName: pl.pod.Name + "-extended-resources-",
		UID:             types.UID(uuid.NewUUID()), // until the API gives it one
		Annotations:     map[string]string{resourceapi.ExtendedResourceClaimAnnotation: "true"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pl.pod.Name, UID: pl.pod.UID, Controller: &controller}}}}}
	for _, name := range slices.Sorted(maps.Keys(needed)) {
		s := sharing{resource: name, class: pl.classes.forResource(name).Name}
		s.spread(pl.pod)
		own.claim.Spec.Devices.Requests = append(own.claim.Spec.Devices.Requests, s.requests...)
		own.mappings = append(own.mappings, s.mappings...)
	}
	slices.SortFunc(own.claim.Spec.Devices.Requests, func(a, b resourceapi.DeviceRequest) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return own
}

// sharing turns the containers' requests for one resource into requests of a claim. Init containers run one after the other
// and before all others, so they use the devices of those that come later, and the rest that the largest needs is shared.
type sharing struct {
	resource v1.ResourceName
	class    string
	requests []resourceapi.DeviceRequest
	mappings []v1.ContainerExtendedResourceRequest
}

func (s *sharing) spread(p *v1.Pod) {
	all := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	brief := func(i int) bool {
		r := all[i].RestartPolicy
		return i < len(p.Spec.InitContainers) && (r == nil || *r != v1.ContainerRestartPolicyAlways)
	}
	lasting := make([]*resourceapi.DeviceRequest, len(all))
	for i := range all {
		if !brief(i) {
			lasting[i] = s.request(i, &all[i], nil)
		}
	}
	var most *resourceapi.DeviceRequest
	rests := map[string]bool{}
	first := len(s.mappings)
	for i := range all {
		if !brief(i) {
			continue
		}
		if r := s.request(i, &all[i], lasting[i:]); r != nil {
			rests[r.Name] = true
			if most == nil || most.Exactly.Count < r.Exactly.Count {
				most = r
			}
		}
	}
	for i := first; i < len(s.mappings); i++ {
		if rests[s.mappings[i].RequestName] {
			s.mappings[i].RequestName = most.Name
		}
	}
	for _, r := range append(lasting, most) {
		if r != nil {
			s.requests = append(s.requests, *r)
		}
	}
}

// request is what a container needs beyond the devices of others that it can use; nil for nothing.
func (s *sharing) request(index int, c *v1.Container, others []*resourceapi.DeviceRequest) *resourceapi.DeviceRequest {
	q := c.Resources.Requests[s.resource]
	need := q.Value()
	if need == 0 {
		return nil
	}
	use := func(name string) {
		s.mappings = append(s.mappings, v1.ContainerExtendedResourceRequest{ContainerName: c.Name, ResourceName: string(s.resource), RequestName: name})
	}
	for _, o := range others {
		if o == nil {
			continue
		}
		use(o.Name)
		if need -= o.Exactly.Count; need <= 0 {
			return nil
		}
	}
	at := slices.Index(slices.Sorted(maps.Keys(c.Resources.Requests)), s.resource)
	name := fmt.Sprintf("container-%d-request-%d", index, at)
	use(name)
	return &resourceapi.DeviceRequest{Name: name, Exactly: &resourceapi.ExactDeviceRequest{DeviceClassName: s.class,
		AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: need}}
}
