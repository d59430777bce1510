package scheduler

import (
	"context"
	"log/slog"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	resourcelisters "k8s.io/client-go/listers/resource/v1"

	"github.com/skiff-node/skiff/controlplane/scheduler/devices"
	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// resourceStores reads what the allocation of devices needs.
type resourceStores struct {
	claims  resourcelisters.ResourceClaimLister
	asOf    func() string // version of the API that claims has
	classes resourcelisters.DeviceClassLister
	slices  resourcelisters.ResourceSliceLister
	rules   resourcelisters.DeviceTaintRuleLister
}

func newResourceStores(f informers.SharedInformerFactory) resourceStores {
	r := f.Resource().V1()
	return resourceStores{claims: r.ResourceClaims().Lister(), asOf: r.ResourceClaims().Informer().GetStore().LastStoreSyncResourceVersion, classes: r.DeviceClasses().Lister(), slices: r.ResourceSlices().Lister(), rules: r.DeviceTaintRules().Lister()}
}

func (s resourceStores) Claim(namespace, name string) *resourceapi.ResourceClaim {
	c, err := s.claims.ResourceClaims(namespace).Get(name)
	if err != nil {
		return nil
	}
	return c
}

func (s resourceStores) Claims() []*resourceapi.ResourceClaim       { return all(s.claims.List) }
func (s resourceStores) ClaimsAsOf() string                         { return s.asOf() }
func (s resourceStores) Classes() []*resourceapi.DeviceClass        { return all(s.classes.List) }
func (s resourceStores) Slices() []*resourceapi.ResourceSlice       { return all(s.slices.List) }
func (s resourceStores) TaintRules() []*resourceapi.DeviceTaintRule { return all(s.rules.List) }

// all lists a cache, which cannot fail.
func all[T any](list func(labels.Selector) ([]T, error)) []T {
	objects, err := list(labels.Everything())
	if err != nil {
		slog.Error("scheduler: list a cache", "err", err)
	}
	return objects
}

// deviceRules shows the allocator of devices to the rules.
type deviceRules struct{ *devices.Allocator }

func (d deviceRules) Prepare(p *v1.Pod) (func(*v1.Node) string, error) {
	plan, err := d.Allocator.Prepare(p)
	if err != nil || plan == nil {
		return nil, err
	}
	return plan.Node, nil
}

// granter gives devices to pods.
type granter struct{ *Scheduler }

// reserve allocates the devices of a pod that has been given a node; if that fails, it has none. The caller holds the lock.
func (s granter) reserve(p *snapshot.Pod, d decision) (decision, *devices.Grant) {
	if d.Node == "" {
		return d, nil
	}
	grant, err := s.devices.Reserve(p.Object, s.cluster.Node(d.Node).Object)
	if err != nil {
		return decision{Message: err.Error(), Helped: filter.DevicesChanged}, nil
	}
	return d, grant
}

// unstick frees a claim of a pod that no node can run, if it keeps the pod from nodes and nobody else uses it.
func (s granter) unstick(ctx context.Context, p *v1.Pod) {
	if !s.devices.Wants(p) {
		return
	}
	s.mu.Lock()
	var nodes []*v1.Node
	for _, n := range s.cluster.Nodes() {
		nodes = append(nodes, n.Object)
	}
	s.mu.Unlock()
	claim := s.devices.Stuck(p, nodes)
	if claim == nil {
		return
	}
	if err := devices.Deallocate(ctx, s.cfg.Client, claim); err != nil {
		slog.Error("scheduler: free the devices of a claim that keeps a pod from all nodes", "claim", claim.Namespace+"/"+claim.Name, "err", err)
	}
}

// grant tells the API which devices the pod has. It says whether they have yet to become ready.
func (s granter) grant(ctx context.Context, p *snapshot.Pod, node string, g *devices.Grant) (wait bool, err error) {
	if g == nil {
		return false, nil
	}
	if err := g.Write(ctx, s.cfg.Client); err != nil {
		return false, err
	}
	ready, err := g.Ready()
	if err == nil && !ready {
		s.report.events.Eventf(p.Object, nil, v1.EventTypeNormal, "BindingConditionsPending", "Scheduling", "waiting for binding conditions for device on node %s", node)
	}
	return !ready, err
}

// changed wakes the pods that a change of claims or devices may help. The loop also looks at the pods that wait for devices.
func (s granter) changed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Scheduler.changed(filter.DevicesChanged)
}

func (s granter) setClaim(*resourceapi.ResourceClaim) { s.changed() }

func (s granter) removeClaim(c *resourceapi.ResourceClaim) {
	s.devices.Gone(c)
	s.changed()
}
