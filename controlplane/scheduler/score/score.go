// Package score ranks the nodes on which a pod can run.
//
// The scores, their scales (0 to 100) and weights are those of the default profile of Kubernetes' scheduler. All is
// pure; ties are left to the caller.
package score

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

const top = 100 // the best score of one rule

// World is what the rules may look at.
type World struct {
	Cluster *snapshot.Cluster
	// Siblings returns a selector for the pods that serve or belong with the pod: of its Services and its owner.
	// An empty selector means none. It may be nil.
	Siblings func(*v1.Pod) labels.Selector
	// Devices scores nodes by the devices that the pod's resource claims get there; nil where they do not matter. It may be nil.
	Devices func(*v1.Pod, []*v1.Node) []int64
}

// rule gives each node a score from 0 to top, or nil where it has nothing to say.
type rule struct {
	weight int64
	scores func(*snapshot.Pod, World, []*snapshot.Node) []int64
}

func rules() []rule {
	return []rule{
		{3, preferredTaints},
		{2, preferredNodes},
		{1, leastAllocated},
		{2, evenSpread},
		{2, preferredPods},
		{1, balanced},
		{1, images},
		{2, devices},
	}
}

// Nodes returns the sum of all rules for each of the nodes.
func Nodes(p *snapshot.Pod, w World, nodes []*snapshot.Node) []int64 {
	sums := make([]int64, len(nodes))
	for _, r := range rules() {
		for i, s := range r.scores(p, w, nodes) {
			sums[i] += r.weight * s
		}
	}
	return sums
}

// scale stretches scores so that the largest becomes top; reverse turns them around.
func scale(scores []int64, reverse bool) []int64 {
	var most int64
	for _, s := range scores {
		most = max(most, s)
	}
	for i, s := range scores {
		if most > 0 {
			s = top * s / most
		}
		if reverse {
			s = top - s
		}
		scores[i] = s
	}
	return scores
}

// preferredTaints counts the PreferNoSchedule taints that the pod does not tolerate: fewer is better.
func preferredTaints(p *snapshot.Pod, _ World, nodes []*snapshot.Node) []int64 {
	var tolerations []v1.Toleration
	for _, t := range p.Object.Spec.Tolerations {
		if t.Effect == "" || t.Effect == v1.TaintEffectPreferNoSchedule {
			tolerations = append(tolerations, t)
		}
	}
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		for j := range n.Object.Spec.Taints {
			t := &n.Object.Spec.Taints[j]
			if t.Effect == v1.TaintEffectPreferNoSchedule && !corev1.TolerationsTolerateTaint(klog.Background(), tolerations, t, false) {
				out[i]++
			}
		}
	}
	return scale(out, true)
}

// devices prefers nodes where resource claims get what they name first.
func devices(p *snapshot.Pod, w World, nodes []*snapshot.Node) []int64 {
	if w.Devices == nil || len(p.Object.Spec.ResourceClaims) == 0 {
		return nil
	}
	objects := make([]*v1.Node, len(nodes))
	for i, n := range nodes {
		objects[i] = n.Object
	}
	return scale(w.Devices(p.Object, objects), false)
}

// preferredNodes sums the weights of the preferred node affinity terms that a node meets.
func preferredNodes(p *snapshot.Pod, _ World, nodes []*snapshot.Node) []int64 {
	a := p.Object.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil { // not let in by the API
		return nil
	}
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		out[i] = terms.Score(n.Object)
	}
	return scale(out, false)
}
