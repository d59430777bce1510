package devices

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"
)

const (
	// filterTime bounds the search for devices on one node, which can be long for odd claims.
	filterTime = 10 * time.Second
	// bindTime is how long a device may take until it is ready for a node.
	bindTime = 10 * time.Minute
)

// Plan judges nodes by the devices that a pod needs.
type Plan struct {
	a      *Allocator
	pod    *v1.Pod
	claims []*wanted
	// extended are the resources for which the pod needs a claim of its own, made by the scheduler.
	extended map[v1.ResourceName]int64
	stale    *resourceapi.ResourceClaim // that of an attempt that failed
	search   structured.Allocator       // nil when nothing is to be allocated
	classes  classes
}

// wanted is one claim of the pod.
type wanted struct {
	claim *resourceapi.ResourceClaim
	nodes *nodeaffinity.NodeSelector // where an allocated claim can be used; nil for everywhere
}

// Prepare readies the judgement of nodes for a pod. An error says why no node can do, in upstream's words. The plan is nil when
// the pod needs no devices.
func (a *Allocator) Prepare(p *v1.Pod) (*Plan, error) {
	if !a.Wants(p) {
		return nil, nil
	}
	pl := &Plan{a: a, pod: p, classes: a.world.Classes(), extended: a.claimed(p)}
	toAllocate := len(pl.extended) > 0
	if len(pl.extended) > 0 {
		pl.stale = a.own(p)
	}
	for i := range p.Spec.ResourceClaims {
		w, err := pl.want(&p.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if w != nil {
			pl.claims = append(pl.claims, w)
			toAllocate = toAllocate || w.claim.Status.Allocation == nil
		}
	}
	if !toAllocate {
		return pl, nil
	}
	var err error
	pl.search, err = structured.NewAllocator(context.Background(), features, a.taken(), pl.classes, tainted(a.world.Slices(), a.world.TaintRules()), a.compiled)
	return pl, err
}

// want finds and checks one claim; nil for one that was left out deliberately.
func (pl *Plan) want(entry *v1.PodResourceClaim) (*wanted, error) {
	name, owned, err := resourceclaim.Name(pl.pod, entry)
	if err != nil || name == nil {
		return nil, err
	}
	c := pl.a.world.Claim(pl.pod.Namespace, *name)
	switch {
	case c == nil:
		return nil, fmt.Errorf("resourceclaim.resource.k8s.io %q not found", *name)
	case c.DeletionTimestamp != nil:
		return nil, fmt.Errorf("resourceclaim %q is being deleted", c.Name)
	}
	if owned {
		if err := resourceclaim.IsForPod(pl.pod, c, false); err != nil {
			return nil, err
		}
	}
	w := &wanted{claim: pl.a.newest(c)}
	if w.claim.Status.Allocation == nil {
		if pl.a.underWay(c) {
			return nil, fmt.Errorf("resource claim %s is in the process of being allocated", inUse(c))
		}
		return w, pl.known(c)
	}
	if s := w.claim.Status.Allocation.NodeSelector; s != nil {
		if w.nodes, err = nodeaffinity.NewNodeSelector(s); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// known makes sure that the classes of a claim exist.
func (pl *Plan) known(c *resourceapi.ResourceClaim) error {
	exists := func(class string, request ...string) error {
		if _, err := pl.classes.Get(class); err != nil {
			return fmt.Errorf("request %s: device class %s does not exist", strings.Join(request, "/"), class)
		}
		return nil
	}
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		if r.Exactly == nil && len(r.FirstAvailable) == 0 {
			return fmt.Errorf("resource claim %s, request %s: unknown request type", inUse(c), r.Name)
		}
		if r.Exactly != nil {
			if err := exists(r.Exactly.DeviceClassName, r.Name); err != nil {
				return err
			}
		}
		for j := range r.FirstAvailable {
			if err := exists(r.FirstAvailable[j].DeviceClassName, r.Name, r.FirstAvailable[j].Name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Node says why a node will not do; nothing if it will.
func (pl *Plan) Node(n *v1.Node) string {
	_, err := pl.allocate(n)
	if err != nil {
		return err.Error()
	}
	return ""
}

// result is what a pod gets on a node: an allocation for each claim that has none, in order.
type result struct {
	own         *ownClaim // nil when no extended resource is claimed here
	claims      []*resourceapi.ResourceClaim
	allocations []resourceapi.AllocationResult
}

func (pl *Plan) allocate(n *v1.Node) (*result, error) {
	if pl.stale != nil {
		return nil, errors.New("cannot schedule extended resource claim")
	}
	r := &result{own: pl.ownClaim(n)}
	for _, w := range pl.claims {
		switch {
		case w.claim.Status.Allocation == nil:
			r.claims = append(r.claims, w.claim)
		case w.nodes != nil && !w.nodes.Match(n), failed(w.claim, time.Now()):
			return nil, errors.New("resourceclaim not available on the node")
		}
	}
	if r.own != nil {
		r.claims = append(r.claims, r.own.claim)
	}
	if len(r.claims) == 0 {
		return r, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), filterTime)
	defer cancel()
	var err error
	r.allocations, err = pl.search.Allocate(ctx, n, r.claims)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("node %s: timed out trying to allocate devices", n.Name)
	case err != nil:
		return nil, err
	case len(r.allocations) != len(r.claims):
		return nil, errors.New("cannot allocate all claims")
	}
	return r, nil
}

// failed tells whether the claim's devices will not become ready.
func failed(c *resourceapi.ResourceClaim, now time.Time) bool {
	ok, err := ready(c)
	if err != nil || ok {
		return err != nil
	}
	at := c.Status.Allocation.AllocationTimestamp
	return at != nil && at.Add(bindTime).Before(now)
}

// ready tells whether all devices of an allocated claim are ready for their node; an error, that one never will be.
func ready(c *resourceapi.ResourceClaim) (bool, error) {
	for i := range c.Status.Allocation.Devices.Results {
		r := &c.Status.Allocation.Devices.Results[i]
		if len(r.BindingConditions) == 0 {
			continue
		}
		st := statusOf(c, r)
		if st == nil {
			return false, nil
		}
		for _, name := range r.BindingFailureConditions {
			if cond := apimeta.FindStatusCondition(st.Conditions, name); cond != nil && cond.Status == "True" {
				return false, fmt.Errorf("device binding failed: claim=%s, reason=%s, message=%q", c.Name, cond.Reason, cond.Message)
			}
		}
		for _, name := range r.BindingConditions {
			if !apimeta.IsStatusConditionTrue(st.Conditions, name) {
				return false, nil
			}
		}
	}
	return true, nil
}

func statusOf(c *resourceapi.ResourceClaim, r *resourceapi.DeviceRequestAllocationResult) *resourceapi.AllocatedDeviceStatus {
	for i := range c.Status.Devices {
		if d := &c.Status.Devices[i]; d.Driver == r.Driver && d.Pool == r.Pool && d.Device == r.Device {
			return d
		}
	}
	return nil
}

// Scores tell for each node how good the alternatives are that the pod gets there, where its claims name some; nil where none
// does. Of the alternatives of a request the first is worth most.
func (a *Allocator) Scores(p *v1.Pod, nodes []*v1.Node) []int64 {
	pl, err := a.Prepare(p)
	if err != nil || pl == nil || !slices.ContainsFunc(pl.claims, (*wanted).choosy) {
		return nil
	}
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		r, err := pl.allocate(n)
		if err != nil {
			continue
		}
		for j := range r.claims {
			out[i] += worth(r.claims[j], &r.allocations[j])
		}
		for _, w := range pl.claims {
			if w.claim.Status.Allocation != nil {
				out[i] += worth(w.claim, w.claim.Status.Allocation)
			}
		}
	}
	return out
}

// choosy tells whether the claim names alternatives.
func (w *wanted) choosy() bool {
	return slices.ContainsFunc(w.claim.Spec.Devices.Requests, func(r resourceapi.DeviceRequest) bool { return len(r.FirstAvailable) > 0 })
}

// worth adds up which alternatives were taken.
func worth(c *resourceapi.ResourceClaim, a *resourceapi.AllocationResult) (sum int64) {
	for i := range c.Spec.Devices.Requests {
		r := &c.Spec.Devices.Requests[i]
		for j := range r.FirstAvailable {
			name := resourceclaim.CreateSubRequestRef(r.Name, r.FirstAvailable[j].Name)
			if slices.ContainsFunc(a.Devices.Results, func(d resourceapi.DeviceRequestAllocationResult) bool { return d.Request == name }) {
				sum += int64(resourceapi.FirstAvailableDeviceRequestMaxSize - j)
			}
		}
	}
	return sum
}

// Stuck finds a claim that keeps the pod from all of those nodes although nobody else uses it: one that was allocated where
// the pod cannot run, or whose devices failed.
func (a *Allocator) Stuck(p *v1.Pod, nodes []*v1.Node) *resourceapi.ResourceClaim {
	pl, err := a.Prepare(p)
	if err != nil || pl == nil {
		return nil
	}
	for _, w := range pl.claims {
		c := w.claim
		if c.Status.Allocation == nil || len(c.Status.ReservedFor) > 1 || (len(c.Status.ReservedFor) == 1 && c.Status.ReservedFor[0].UID != p.UID) {
			continue
		}
		if failed(c, time.Now()) {
			return c
		}
		for _, n := range nodes {
			if w.nodes != nil && !w.nodes.Match(n) {
				return c
			}
		}
	}
	return pl.stale
}
