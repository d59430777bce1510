package spec

import (
	"maps"
	"slices"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Sets are the processors that a container runs on and the NUMA nodes that it has its memory from, as 0-3,7; empty for all.
type Sets struct{ CPUs, Memory string }

// Extra is what a container gets beside what its spec says: devices, and what makes them usable.
type Extra struct {
	// Env gives way to variables of the same names in the spec.
	Env     []Var
	Mounts  []*cri.Mount
	Devices []*cri.Device
	// CDIDevices are fully qualified names of the Container Device Interface: vendor.example/class=name.
	CDIDevices []*cri.CDIDevice
	// Annotations of the container in the runtime.
	Annotations map[string]string
}

// Add adds what another source gives the container.
func (e *Extra) Add(other *Extra) {
	if other == nil {
		return
	}
	e.Env = append(e.Env, other.Env...)
	e.Mounts = append(e.Mounts, other.Mounts...)
	e.Devices = append(e.Devices, other.Devices...)
	e.CDIDevices = append(e.CDIDevices, other.CDIDevices...)
	if e.Annotations == nil {
		e.Annotations = map[string]string{}
	}
	maps.Copy(e.Annotations, other.Annotations)
}

// merged is what the container is made from with the extra put before it, as upstream: the spec's variables and the kubelet's
// own annotations come before those of others.
func (e Extra) merged(in *ContainerInput, annotations map[string]string) *ContainerInput {
	out := *in
	out.Env = nil
	for _, v := range e.Env {
		if !slices.ContainsFunc(in.Env, func(own Var) bool { return own.Name == v.Name }) {
			out.Env = append(out.Env, v)
		}
	}
	out.Env = append(out.Env, in.Env...)
	out.Mounts = slices.Concat(e.Mounts, in.Mounts)
	out.Devices = slices.Concat(e.Devices, in.Devices)
	for name, value := range e.Annotations {
		if _, own := annotations[name]; !own {
			annotations[name] = value
		}
	}
	return &out
}
