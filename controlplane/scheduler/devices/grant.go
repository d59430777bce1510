package devices

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

// Grant is what a pod was given on a node.
type Grant struct {
	a      *Allocator
	pod    *v1.Pod
	claims []*granted
	own    *ownClaim
}

// granted is a claim with what is to be written into it.
type granted struct {
	claim      *resourceapi.ResourceClaim
	allocation *resourceapi.AllocationResult // nil if it was allocated before
	assumed    types.UID                     // the key of its assumption; empty when there is none
	own        bool
}

// Reserve allocates what the pod needs on the node. It returns nil for a pod that needs nothing.
func (a *Allocator) Reserve(p *v1.Pod, n *v1.Node) (*Grant, error) {
	pl, err := a.Prepare(p)
	if err != nil || pl == nil {
		return nil, err
	}
	r, err := pl.allocate(n)
	if err != nil {
		return nil, err
	}
	g := &Grant{a: a, pod: p, own: r.own}
	for _, w := range pl.claims {
		if w.claim.Status.Allocation != nil {
			g.claims = append(g.claims, &granted{claim: w.claim})
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for i, c := range r.claims {
		will := c.DeepCopy()
		will.Status.Allocation = &r.allocations[i]
		a.assumed[c.UID] = &assumption{claim: will}
		g.claims = append(g.claims, &granted{claim: c, allocation: &r.allocations[i], assumed: c.UID, own: r.own != nil && c == r.own.claim})
	}
	return g, nil
}

// Write tells the API. After an error, or when the pod is not bound after all, Undo has to follow.
func (g *Grant) Write(ctx context.Context, client kubernetes.Interface) error {
	for _, c := range g.claims {
		if reservedFor(c.claim, g.pod) && c.allocation == nil {
			continue
		}
		if err := g.write(ctx, client, c); err != nil {
			return err
		}
	}
	return nil
}

func (g *Grant) write(ctx context.Context, client kubernetes.Interface, c *granted) error {
	api := client.ResourceV1().ResourceClaims(g.pod.Namespace)
	if c.own {
		obj := c.claim.DeepCopy()
		obj.UID = ""
		made, err := api.Create(ctx, obj, metav1.CreateOptions{})
		if err != nil {
			return fmt.Errorf("create claim for extended resources: %w", err)
		}
		c.claim = made
	}
	claim, fresh := c.claim.DeepCopy(), true
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if !fresh {
			again, err := api.Get(ctx, claim.Name, metav1.GetOptions{})
			if err != nil {
				return fmt.Errorf("get updated claim %s after conflict: %w", inUse(claim), err)
			}
			claim = again
		}
		fresh = false
		updated, err := g.update(ctx, client, claim, c.allocation)
		if err == nil {
			claim = updated
		}
		return err
	})
	if err != nil {
		return err
	}
	c.claim = claim
	g.a.wrote(c)
	if c.own {
		return g.tellPod(ctx, client, claim.Name)
	}
	return nil
}

// update makes the finalizer, then allocation and reservation.
func (g *Grant) update(ctx context.Context, client kubernetes.Interface, claim *resourceapi.ResourceClaim, allocation *resourceapi.AllocationResult) (*resourceapi.ResourceClaim, error) {
	api := client.ResourceV1().ResourceClaims(claim.Namespace)
	switch {
	case claim.DeletionTimestamp != nil:
		return nil, fmt.Errorf("claim %s got deleted in the meantime", inUse(claim))
	case allocation != nil && claim.Status.Allocation != nil:
		return nil, fmt.Errorf("claim %s got allocated elsewhere in the meantime", inUse(claim))
	case allocation == nil && claim.Status.Allocation == nil:
		return nil, fmt.Errorf("claim %s got deallocated elsewhere in the meantime", inUse(claim))
	}
	if allocation != nil && !slices.Contains(claim.Finalizers, resourceapi.Finalizer) {
		claim.Finalizers = append(claim.Finalizers, resourceapi.Finalizer)
		updated, err := api.Update(ctx, claim, metav1.UpdateOptions{})
		if err != nil {
			return nil, fmt.Errorf("add finalizer to claim %s: %w", inUse(claim), err)
		}
		claim = updated
	}
	if allocation != nil {
		claim.Status.Allocation = allocation.DeepCopy()
	}
	if claim.Status.Allocation.AllocationTimestamp == nil {
		claim.Status.Allocation.AllocationTimestamp = &metav1.Time{Time: time.Now()}
	}
	if !reservedFor(claim, g.pod) {
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourceapi.ResourceClaimConsumerReference{Resource: "pods", Name: g.pod.Name, UID: g.pod.UID})
	}
	updated, err := api.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("add allocation and reservation to claim %s: %w", inUse(claim), err)
	}
	return updated, nil
}

// tellPod lets the kubelet know which claim has the pod's extended resources, and what is for which container.
func (g *Grant) tellPod(ctx context.Context, client kubernetes.Interface, claim string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": g.pod.UID}, "status": map[string]any{
		"extendedResourceClaimStatus": v1.PodExtendedResourceClaimStatus{ResourceClaimName: claim, RequestMappings: g.own.mappings}}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Pods(g.pod.Namespace).Patch(ctx, g.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("update pod %s/%s ExtendedResourceClaimStatus: %w", g.pod.Namespace, g.pod.Name, err)
	}
	return nil
}

// wrote notes that the API has a claim as it was assumed to become.
func (a *Allocator) wrote(c *granted) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if c.assumed != "" {
		delete(a.assumed, c.assumed)
		c.assumed = ""
	}
	a.assumed[c.claim.UID] = &assumption{claim: c.claim, written: true}
}

// Ready tells whether all devices are ready for the node; an error, that one never will be.
func (g *Grant) Ready() (bool, error) {
	for _, c := range g.claims {
		obj := g.a.world.Claim(c.claim.Namespace, c.claim.Name)
		if obj == nil || older(obj, c.claim) {
			obj = c.claim
		}
		if obj.Status.Allocation == nil {
			return false, fmt.Errorf("claim %s got deallocated elsewhere in the meantime", inUse(obj))
		}
		if ok, err := ready(obj); !ok {
			return false, err
		}
	}
	return true, nil
}

// Undo takes back what the pod was given. The API's part of it is tried; what remains of it is found at the next attempt.
func (g *Grant) Undo(ctx context.Context, client kubernetes.Interface) error {
	g.a.mu.Lock()
	for _, c := range g.claims {
		if c.assumed != "" {
			delete(g.a.assumed, c.assumed)
		}
	}
	g.a.mu.Unlock()
	var errs []error
	for _, c := range g.claims {
		switch {
		case !reservedFor(c.claim, g.pod):
		case c.own:
			errs = append(errs, Delete(ctx, client, c.claim))
		default:
			patch := fmt.Sprintf(`{"metadata": {"uid": %q}, "status": {"reservedFor": [{"$patch": "delete", "uid": %q}]}}`, c.claim.UID, g.pod.UID)
			_, err := client.ResourceV1().ResourceClaims(c.claim.Namespace).Patch(ctx, c.claim.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
			if err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// Deallocate frees a claim that is stuck: one that the scheduler made goes, of others the allocation.
func Deallocate(ctx context.Context, client kubernetes.Interface, c *resourceapi.ResourceClaim) error {
	if c.Annotations[resourceapi.ExtendedResourceClaimAnnotation] == "true" {
		return Delete(ctx, client, c)
	}
	c = c.DeepCopy()
	c.Status = resourceapi.ResourceClaimStatus{}
	_, err := client.ResourceV1().ResourceClaims(c.Namespace).UpdateStatus(ctx, c, metav1.UpdateOptions{})
	return err
}

// Delete removes a claim that the scheduler made, with the finalizer.
func Delete(ctx context.Context, client kubernetes.Interface, c *resourceapi.ResourceClaim) error {
	api := client.ResourceV1().ResourceClaims(c.Namespace)
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		obj, err := api.Get(ctx, c.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		obj.Finalizers = slices.DeleteFunc(obj.Finalizers, func(f string) bool { return f == resourceapi.Finalizer })
		_, err = api.Update(ctx, obj, metav1.UpdateOptions{})
		return err
	})
	if err == nil {
		err = api.Delete(ctx, c.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(c.UID))})
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func reservedFor(c *resourceapi.ResourceClaim, p *v1.Pod) bool {
	return slices.ContainsFunc(c.Status.ReservedFor, func(r resourceapi.ResourceClaimConsumerReference) bool { return r.UID == p.UID })
}
