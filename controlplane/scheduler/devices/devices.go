// Package devices allocates devices to the resource claims of pods (dynamic resource allocation, KEP-4381), and for extended
// resources that a device class stands for (KEP-5004).
//
//	Prepare   looks at a pod's claims once and judges nodes by them: pure
//	Reserve   allocates for the chosen node; from then on no other pod gets those devices
//	Write     tells the API: allocation and reservation go into the claims
//	Undo      takes back what Reserve and Write did, if the pod is not bound after all
//
// Which devices fit is decided by upstream's allocator, k8s.io/dynamic-resource-allocation/structured, with the features of
// Kubernetes 1.37: administrative access, alternatives, partitions, taints, shared capacity, binding conditions.
package devices

import (
	"fmt"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

// features are those that are on by default in 1.37.
var features = structured.Features{AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true,
	DeviceBindingAndStatus: true, ConsumableCapacity: true, FractionalCapacityRange: true}

// World is what there is, in a cache.
type World interface {
	// Claim returns nil when there is none.
	Claim(namespace, name string) *resourceapi.ResourceClaim
	Claims() []*resourceapi.ResourceClaim
	// ClaimsAsOf is the version of the API that Claims has, as far as that is known: what is older and not there was deleted.
	ClaimsAsOf() string
	Classes() []*resourceapi.DeviceClass
	Slices() []*resourceapi.ResourceSlice
	TaintRules() []*resourceapi.DeviceTaintRule
}

// Allocator knows which devices are free.
type Allocator struct {
	world    World
	compiled *cel.Cache

	mu      sync.Mutex
	assumed map[types.UID]*assumption // by claim
}

// assumption is a claim as this scheduler has decided that it will be.
type assumption struct {
	claim *resourceapi.ResourceClaim
	// written: the API has it, the cache may not yet.
	written bool
}

// New makes an allocator for a world.
func New(w World) *Allocator {
	return &Allocator{world: w, compiled: cel.NewCache(10, cel.Features{EnableConsumableCapacity: true}), assumed: map[types.UID]*assumption{}}
}

// Wants tells whether a pod needs devices: quick, and for most pods false.
func (a *Allocator) Wants(p *v1.Pod) bool {
	return len(p.Spec.ResourceClaims) > 0 || len(a.claimed(p)) > 0
}

// newest is the claim as it is or, if the cache lags behind what this scheduler has written, as it will be.
func (a *Allocator) newest(c *resourceapi.ResourceClaim) *resourceapi.ResourceClaim {
	a.mu.Lock()
	defer a.mu.Unlock()
	as := a.assumed[c.UID]
	if as == nil || !as.written {
		return c
	}
	if older(c, as.claim) {
		return as.claim
	}
	delete(a.assumed, c.UID)
	return c
}

// older compares two versions of a claim. Versions that cannot be compared, as those of fakes, tell by what is in them.
func older(a, b *resourceapi.ResourceClaim) bool {
	order, err := resourceversion.CompareResourceVersion(a.ResourceVersion, b.ResourceVersion)
	if err != nil {
		return a.Status.Allocation == nil && b.Status.Allocation != nil
	}
	return order < 0
}

// Gone forgets a claim that was deleted.
func (a *Allocator) Gone(c *resourceapi.ResourceClaim) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.assumed, c.UID)
}

// underWay tells whether the claim is being allocated for another pod.
func (a *Allocator) underWay(c *resourceapi.ResourceClaim) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	as := a.assumed[c.UID]
	return as != nil && !as.written && c.Status.Allocation == nil
}

// taken counts the devices that claims have.
func (a *Allocator) taken() structured.AllocatedState {
	s := structured.AllocatedState{AllocatedDevices: sets.New[structured.DeviceID](), AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity: structured.NewConsumedCapacityCollection()}
	seen, asOf := map[types.UID]bool{}, a.world.ClaimsAsOf() // in this order: the claims may be newer
	for _, c := range a.world.Claims() {
		seen[c.UID] = a.newest(c).Status.Allocation != nil
		count(&s, a.newest(c))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for uid, as := range a.assumed {
		if _, there := seen[uid]; !there && as.gone(asOf) {
			delete(a.assumed, uid)
			continue
		}
		if !seen[uid] {
			count(&s, as.claim)
		}
	}
	return s
}

// gone tells of a claim that is not in a cache of that version whether it was deleted, and not only has yet to appear. Gone need not
// have been told: a cache that was filled anew has never had what came and went meanwhile, and the deletion may have been seen before
// this scheduler had the answer to what it wrote.
func (as *assumption) gone(asOf string) bool {
	order, err := resourceversion.CompareResourceVersion(asOf, as.claim.ResourceVersion)
	return as.written && err == nil && order >= 0
}

func count(s *structured.AllocatedState, c *resourceapi.ResourceClaim) {
	if c.Status.Allocation == nil {
		return
	}
	for i := range c.Status.Allocation.Devices.Results {
		r := &c.Status.Allocation.Devices.Results[i]
		if r.AdminAccess != nil && *r.AdminAccess {
			continue // it looks at the device and does not use it
		}
		id := structured.MakeDeviceID(r.Driver, r.Pool, r.Device)
		if r.ShareID == nil {
			s.AllocatedDevices.Insert(id)
			continue
		}
		s.AllocatedSharedDeviceIDs.Insert(structured.MakeSharedDeviceID(id, r.ShareID))
		if r.ConsumedCapacity != nil {
			s.AggregatedCapacity.Insert(structured.NewDeviceConsumedCapacity(id, r.ConsumedCapacity))
		}
	}
}

// classes answers the allocator.
type classes []*resourceapi.DeviceClass

func (c classes) List() ([]*resourceapi.DeviceClass, error) { return c, nil }

func (c classes) Get(name string) (*resourceapi.DeviceClass, error) {
	for _, class := range c {
		if class.Name == name {
			return class, nil
		}
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Group: resourceapi.GroupName, Resource: "deviceclasses"}, name)
}

// forResource is the class that stands for an extended resource: the newest of several, nil for none.
func (c classes) forResource(name v1.ResourceName) *resourceapi.DeviceClass {
	if class, ok := strings.CutPrefix(string(name), resourceapi.ResourceDeviceClassPrefix); ok {
		found, _ := c.Get(class)
		return found
	}
	var best *resourceapi.DeviceClass
	for _, class := range c {
		if class.Spec.ExtendedResourceName == nil || *class.Spec.ExtendedResourceName != string(name) {
			continue
		}
		if best == nil || best.CreationTimestamp.Before(&class.CreationTimestamp) ||
			(best.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < best.Name) {
			best = class
		}
	}
	return best
}

// tainted are the published devices with the taints that rules put on them.
func tainted(published []*resourceapi.ResourceSlice, rules []*resourceapi.DeviceTaintRule) []*resourceapi.ResourceSlice {
	if len(rules) == 0 {
		return published
	}
	out := make([]*resourceapi.ResourceSlice, 0, len(published))
	for _, s := range published {
		for _, r := range rules {
			s = withTaint(s, r)
		}
		out = append(out, s)
	}
	return out
}

// withTaint returns the slice itself if the rule selects nothing of it.
func withTaint(s *resourceapi.ResourceSlice, r *resourceapi.DeviceTaintRule) *resourceapi.ResourceSlice {
	selects := func(want *string, have string) bool { return want == nil || *want == have }
	sel := r.Spec.DeviceSelector
	if r.Spec.Taint.Effect == resourceapi.DeviceTaintEffectNone || sel == nil || !selects(sel.Driver, s.Spec.Driver) || !selects(sel.Pool, s.Spec.Pool.Name) {
		return s
	}
	out := s
	for i := range s.Spec.Devices {
		if !selects(sel.Device, s.Spec.Devices[i].Name) {
			continue
		}
		if out == s {
			out = s.DeepCopy()
		}
		out.Spec.Devices[i].Taints = append(out.Spec.Devices[i].Taints, r.Spec.Taint)
	}
	return out
}

func inUse(c *resourceapi.ResourceClaim) string { return fmt.Sprintf("%s/%s", c.Namespace, c.Name) }
