package pod

import v1 "k8s.io/api/core/v1"

// QOS is the quality-of-service class of a pod: Guaranteed when every container limits CPU and memory and requests as much,
// BestEffort when nothing asks for either, else Burstable. Resources of the pod as a whole (KEP-2837) come before those
// of its containers.
func QOS(p *v1.Pod) v1.PodQOSClass {
	if p.Status.QOSClass != "" {
		return p.Status.QOSClass
	}
	if r := p.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		return classOf([]*v1.ResourceRequirements{r})
	}
	var all []*v1.ResourceRequirements
	for i := range p.Spec.Containers {
		all = append(all, &p.Spec.Containers[i].Resources)
	}
	for i := range p.Spec.InitContainers {
		all = append(all, &p.Spec.InitContainers[i].Resources)
	}
	return classOf(all)
}

func classOf(all []*v1.ResourceRequirements) v1.PodQOSClass {
	asks, guaranteed := false, true
	for _, r := range all {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			asks = asks || !request.IsZero() || !limit.IsZero()
			if request.IsZero() {
				request = limit
			}
			if limit.IsZero() || request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !asks:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}
