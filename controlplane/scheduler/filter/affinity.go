package filter

import (
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// place is one topology domain.
type place struct{ key, value string }

// neighbours counts, per topology domain, the pods that matter to the pod in question.
type neighbours struct {
	wanted   map[place]int // pods that match all of its required affinity terms
	unwanted map[place]int // pods that match one of its anti-affinity terms
	refusing map[place]int // pods whose anti-affinity terms match it
}

// podAffinity is required affinity and anti-affinity, in both directions: what the pod asks for, and what pods
// that are already there refuse.
func podAffinity(p *snapshot.Pod, w World) (judge, *Refusal) {
	if len(p.Affinity)+len(p.AntiAffinity) == 0 && !w.Cluster.AnyAffinity() {
		return nil, nil
	}
	namespace := w.Cluster.NamespaceLabels(p.Object.Namespace)
	s := neighbours{wanted: map[place]int{}, unwanted: map[place]int{}, refusing: map[place]int{}}
	for _, n := range w.Cluster.Nodes() {
		for _, other := range n.WithAntiAffinity() {
			countMatching(s.refusing, other.AntiAffinity, p, namespace, n)
		}
		if len(p.Affinity)+len(p.AntiAffinity) == 0 {
			continue
		}
		for _, other := range n.Pods() {
			otherNamespace := w.Cluster.NamespaceLabels(other.Object.Namespace)
			if matchesAll(p.Affinity, other, otherNamespace) {
				countAll(s.wanted, p.Affinity, n)
			}
			countMatching(s.unwanted, p.AntiAffinity, other, otherNamespace, n)
		}
	}
	if len(p.Affinity) == 0 && len(s.unwanted)+len(s.refusing) == 0 {
		return nil, nil
	}
	// The first pod of a group that wants to be near its own kind may go anywhere.
	first := len(s.wanted) == 0 && matchesAll(p.Affinity, p, namespace)
	return func(n *snapshot.Node) Verdict { return s.judge(p, n, first) }, nil
}

func (s *neighbours) judge(p *snapshot.Pod, n *snapshot.Node, first bool) Verdict {
	const helped = NodeAdded | NodeChanged | PodGone | PodPlaced | NamespaceChanged
	here := n.Object.Labels
	for i := range p.Affinity {
		key := p.Affinity[i].TopologyKey
		value, ok := here[key]
		if !ok || (s.wanted[place{key, value}] == 0 && !first) {
			return refuseForGood(helped, "node(s) didn't match pod affinity rules")
		}
	}
	for i := range p.AntiAffinity {
		key := p.AntiAffinity[i].TopologyKey
		if value, ok := here[key]; ok && s.unwanted[place{key, value}] > 0 {
			return refuse(helped, "node(s) didn't match pod anti-affinity rules")
		}
	}
	for at := range s.refusing {
		if value, ok := here[at.key]; ok && value == at.value {
			return refuse(helped, "node(s) didn't satisfy existing pods anti-affinity rules")
		}
	}
	return Verdict{}
}

func matchesAll(terms []snapshot.Term, p *snapshot.Pod, namespace labels.Set) bool {
	for i := range terms {
		if !terms[i].Matches(p.Object, namespace) {
			return false
		}
	}
	return len(terms) > 0
}

func countAll(into map[place]int, terms []snapshot.Term, n *snapshot.Node) {
	for i := range terms {
		if value, ok := n.Object.Labels[terms[i].TopologyKey]; ok {
			into[place{terms[i].TopologyKey, value}]++
		}
	}
}

func countMatching(into map[place]int, terms []snapshot.Term, p *snapshot.Pod, namespace labels.Set, n *snapshot.Node) {
	for i := range terms {
		t := &terms[i]
		if !t.Matches(p.Object, namespace) {
			continue
		}
		if value, ok := n.Object.Labels[t.TopologyKey]; ok {
			into[place{t.TopologyKey, value}]++
		}
	}
}
