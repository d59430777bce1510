package score

import (
	"math"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// leastAllocated prefers nodes with more CPU and memory to spare, each counting half.
func leastAllocated(p *snapshot.Pod, _ World, nodes []*snapshot.Node) []int64 {
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		var sum, kinds int64
		for _, r := range [][2]int64{
			{n.NonZero.MilliCPU + p.NonZero.MilliCPU, n.Allocatable.MilliCPU},
			{n.NonZero.Memory + p.NonZero.Memory, n.Allocatable.Memory},
		} {
			used, have := r[0], r[1]
			if have == 0 {
				continue
			}
			kinds++
			if used <= have {
				sum += (have - used) * top / have
			}
		}
		if kinds > 0 {
			out[i] = sum / kinds
		}
	}
	return out
}

// balanced prefers nodes where the pod brings the used shares of CPU and memory closer to each other. A pod that
// asks for neither says nothing.
func balanced(p *snapshot.Pod, _ World, nodes []*snapshot.Node) []int64 {
	if p.Requests.MilliCPU == 0 && p.Requests.Memory == 0 {
		return nil
	}
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		without := balance(n.Requested, n.Allocatable)
		with := balance(snapshot.Resources{
			MilliCPU: n.Requested.MilliCPU + p.Requests.MilliCPU,
			Memory:   n.Requested.Memory + p.Requests.Memory,
		}, n.Allocatable)
		out[i] = top/2 + (top/2+with-without)/2
	}
	return out
}

// balance is top when CPU and memory are used to the same share, less the further apart they are.
func balance(used, have snapshot.Resources) int64 {
	if have.MilliCPU == 0 || have.Memory == 0 {
		return top
	}
	cpu := min(1, float64(used.MilliCPU)/float64(have.MilliCPU))
	memory := min(1, float64(used.Memory)/float64(have.Memory))
	return int64((1 - math.Abs((cpu-memory)/2)) * top)
}

// Image sizes below the first are not worth a preference; those above the second, per container, count as it.
const (
	smallImage = 23 << 20
	largeImage = 1000 << 20
)

// images prefers nodes that hold the pod's images already, weighed by their size and by how many nodes hold
// them, so that a pod does not pull all of its kind onto the one node that happened to be first.
func images(p *snapshot.Pod, w World, nodes []*snapshot.Node) []int64 {
	names := imageNames(&p.Object.Spec)
	out := make([]int64, len(nodes))
	all := float64(len(w.Cluster.Nodes()))
	most := int64(largeImage * len(names))
	for i, n := range nodes {
		var sum int64
		for _, name := range names {
			if size := n.ImageSize(name); size > 0 {
				sum += int64(float64(size) * (float64(w.Cluster.NodesWithImage(name)) / all))
			}
		}
		sum = min(max(sum, smallImage), most)
		if most > smallImage {
			out[i] = top * (sum - smallImage) / (most - smallImage)
		}
	}
	return out
}

func imageNames(spec *v1.PodSpec) []string {
	var out []string
	add := func(name string) {
		if strings.LastIndex(name, ":") <= strings.LastIndex(name, "/") {
			name += ":latest"
		}
		out = append(out, name)
	}
	for i := range spec.InitContainers {
		add(spec.InitContainers[i].Image)
	}
	for i := range spec.Containers {
		add(spec.Containers[i].Image)
	}
	for i := range spec.Volumes {
		if image := spec.Volumes[i].Image; image != nil {
			add(image.Reference)
		}
	}
	return out
}
