package dra

import (
	"errors"
	"fmt"

	v1 "k8s.io/api/core/v1"
)

// Errors of pods that name their claims in a way that is not, or not yet, understood; in upstream's words.
var (
	errUnsupported = errors.New("none of the supported fields are set")
	errNotCreated  = errors.New("ResourceClaim not created yet")
)

// reference is a claim object that a pod refers to.
type reference struct {
	// name in the pod's spec; empty for the claim that the scheduler made for extended resources.
	name string
	// claim is the object's name.
	claim string
	// owned: the object was made for the pod, and must belong to it.
	owned bool
}

// references lists the claims of a pod. Entries of the spec for which deliberately no object was made are left out.
func references(p *v1.Pod) ([]reference, error) {
	var list []reference
	for i := range p.Spec.ResourceClaims {
		ref, err := refer(p, &p.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if ref.claim != "" {
			list = append(list, ref)
		}
	}
	if x := p.Status.ExtendedResourceClaimStatus; x != nil && x.ResourceClaimName != "" {
		list = append(list, reference{claim: x.ResourceClaimName})
	}
	return list, nil
}

// refer finds the object of one entry; its name is empty when there is none.
func refer(p *v1.Pod, entry *v1.PodResourceClaim) (reference, error) {
	ref := reference{name: entry.Name}
	switch {
	case entry.ResourceClaimName != nil:
		ref.claim = *entry.ResourceClaimName
		return ref, nil
	case entry.ResourceClaimTemplateName == nil:
		return ref, fmt.Errorf(`pod "%s/%s", spec.resourceClaim %q: %w`, p.Namespace, p.Name, entry.Name, errUnsupported)
	}
	ref.owned = true
	for _, s := range p.Status.ResourceClaimStatuses {
		if s.Name != entry.Name {
			continue
		}
		if s.ResourceClaimName != nil {
			ref.claim = *s.ResourceClaimName
		}
		return ref, nil
	}
	return ref, fmt.Errorf(`pod "%s/%s": %w`, p.Namespace, p.Name, errNotCreated)
}

// use is what a container uses of a claim: a request, or with an empty one all.
type use struct{ claim, request string }

// uses lists what a container uses.
func uses(p *v1.Pod, c *v1.Container) ([]use, error) {
	var list []use
	for i := range p.Spec.ResourceClaims {
		entry := &p.Spec.ResourceClaims[i]
		for _, rc := range c.Resources.Claims {
			if rc.Name != entry.Name {
				continue
			}
			ref, err := refer(p, entry)
			if err != nil {
				return nil, err
			}
			if ref.claim != "" {
				list = append(list, use{ref.claim, rc.Request})
			}
		}
	}
	x := p.Status.ExtendedResourceClaimStatus
	if x == nil {
		return list, nil
	}
	for _, m := range x.RequestMappings {
		if q, asked := c.Resources.Requests[v1.ResourceName(m.ResourceName)]; asked && !q.IsZero() && m.ContainerName == c.Name {
			list = append(list, use{x.ResourceClaimName, m.RequestName})
		}
	}
	return list, nil
}
