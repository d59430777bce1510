package pod

import v1 "k8s.io/api/core/v1"

// Inherit tells what the container may take over of what init containers before it have had for themselves: add is called for
// those that end before it starts, drop for sidecars and for others that run beside it, which have taken theirs over already.
// The order counts.
func Inherit(p *v1.Pod, container string, add, drop func(name string)) {
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		switch {
		case c.Name == container:
			return
		case Sidecar(c):
			drop(c.Name)
		default:
			add(c.Name)
		}
	}
	for i := range p.Spec.Containers {
		if name := p.Spec.Containers[i].Name; name != container {
			drop(name)
		}
	}
}
