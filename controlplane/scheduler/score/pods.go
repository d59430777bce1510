package score

import (
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// evenSpread follows the pod's soft topology spread constraints. A pod without any constraint is spread with its
// siblings over zones and nodes.
func evenSpread(p *snapshot.Pod, w World, nodes []*snapshot.Node) []int64 {
	constraints, strict := softConstraints(p.Object, w)
	if len(constraints) == 0 {
		return nil
	}
	counts := make([]map[string]int64, len(constraints))
	ignored := make([]bool, len(nodes))
	taking := 0
	for i := range counts {
		counts[i] = map[string]int64{}
	}
	for i, n := range nodes {
		if ignored[i] = strict && !filter.HasKeys(n.Object, constraints); ignored[i] {
			continue
		}
		taking++
		for j := range constraints {
			counts[j][n.Object.Labels[constraints[j].TopologyKey]] = 0
		}
	}
	sumDomains(p.Object, w, constraints, counts, strict)

	raw := make([]float64, len(nodes))
	for j := range constraints {
		c := &constraints[j]
		size := len(counts[j])
		if c.TopologyKey == v1.LabelHostname {
			size = taking
		}
		// Many small domains would drown few large ones without the logarithm.
		weight := math.Log(float64(size + 2))
		for i, n := range nodes {
			value, ok := n.Object.Labels[c.TopologyKey]
			if ignored[i] || !ok {
				continue
			}
			count := counts[j][value]
			if c.TopologyKey == v1.LabelHostname {
				count = c.Matching(n, p.Object.Namespace)
			}
			raw[i] += float64(count)*weight + float64(c.MaxSkew-1)
		}
	}
	return invert(raw, ignored)
}

// softConstraints returns the constraints, and whether a node without one of their keys takes no part.
func softConstraints(p *v1.Pod, w World) (_ []filter.Constraint, strict bool) {
	if len(p.Spec.TopologySpreadConstraints) > 0 {
		constraints, err := filter.Constraints(p, v1.ScheduleAnyway)
		if err != nil { // not let in by the API
			return nil, true
		}
		return constraints, true
	}
	if w.Siblings == nil {
		return nil, false
	}
	siblings := w.Siblings(p)
	if siblings == nil || siblings.Empty() {
		return nil, false
	}
	return filter.DefaultConstraints(siblings), false
}

// sumDomains counts the matching pods in each domain that a candidate belongs to. Counts per node are taken
// where they are used.
func sumDomains(p *v1.Pod, w World, constraints []filter.Constraint, counts []map[string]int64, strict bool) {
	want := nodeaffinity.GetRequiredNodeAffinity(p)
	for _, n := range w.Cluster.Nodes() {
		if strict && !filter.HasKeys(n.Object, constraints) {
			continue
		}
		for j := range constraints {
			c := &constraints[j]
			value := n.Object.Labels[c.TopologyKey]
			_, candidate := counts[j][value]
			if candidate && c.TopologyKey != v1.LabelHostname && c.Counts(p, want, n.Object) {
				counts[j][value] += c.Matching(n, p.Namespace)
			}
		}
	}
}

// invert gives fewer pods the higher score; nodes that take no part get 0.
func invert(raw []float64, ignored []bool) []int64 {
	out := make([]int64, len(raw))
	least, most := int64(math.MaxInt64), int64(0)
	for i, r := range raw {
		out[i] = int64(math.Round(r))
		if !ignored[i] {
			least, most = min(least, out[i]), max(most, out[i])
		}
	}
	for i := range out {
		switch {
		case ignored[i]:
			out[i] = 0
		case most == 0:
			out[i] = top
		default:
			out[i] = top * (most + least - out[i]) / most
		}
	}
	return out
}

// requiredWeight is what a pod's required affinity counts towards pods that it would welcome.
const requiredWeight = 1

// preferredPods follows preferred affinity and anti-affinity in both directions.
func preferredPods(p *snapshot.Pod, w World, nodes []*snapshot.Node) []int64 {
	own := len(p.PreferredAffinity)+len(p.PreferredAntiAffinity) > 0
	if !own && !w.Cluster.AnyAffinity() {
		return nil
	}
	a := attraction{pod: p, namespace: w.Cluster.NamespaceLabels(p.Object.Namespace), at: map[[2]string]int64{}}
	for _, n := range w.Cluster.Nodes() {
		others := n.WithAffinity()
		if own {
			others = n.Pods()
		}
		for _, other := range others {
			a.add(other, w.Cluster.NamespaceLabels(other.Object.Namespace), n.Object.Labels)
		}
	}
	if len(a.at) == 0 {
		return nil
	}
	out := make([]int64, len(nodes))
	for i, n := range nodes {
		for at, weight := range a.at {
			if value, ok := n.Object.Labels[at[0]]; ok && value == at[1] {
				out[i] += weight
			}
		}
	}
	return stretch(out)
}

// attraction is, per topology key and value, how much a pod is drawn there.
type attraction struct {
	pod       *snapshot.Pod
	namespace labels.Set
	at        map[[2]string]int64
}

func (a *attraction) add(other *snapshot.Pod, otherNamespace labels.Set, here map[string]string) {
	sum := func(terms []snapshot.Term, about *snapshot.Pod, namespace labels.Set, sign, fixed int64) {
		for i := range terms {
			t := &terms[i]
			value, ok := here[t.TopologyKey]
			if !ok || !t.Matches(about.Object, namespace) {
				continue
			}
			weight := int64(t.Weight)
			if fixed != 0 {
				weight = fixed
			}
			a.at[[2]string{t.TopologyKey, value}] += sign * weight
		}
	}
	sum(a.pod.PreferredAffinity, other, otherNamespace, 1, 0)
	sum(a.pod.PreferredAntiAffinity, other, otherNamespace, -1, 0)
	sum(other.Affinity, a.pod, a.namespace, 1, requiredWeight)
	sum(other.PreferredAffinity, a.pod, a.namespace, 1, 0)
	sum(other.PreferredAntiAffinity, a.pod, a.namespace, -1, 0)
}

// stretch maps the smallest score to 0 and the largest to top.
func stretch(scores []int64) []int64 {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range scores {
		least, most = min(least, s), max(most, s)
	}
	for i, s := range scores {
		scores[i] = 0
		if most > least {
			scores[i] = int64(top * (float64(s-least) / float64(most-least)))
		}
	}
	return scores
}
