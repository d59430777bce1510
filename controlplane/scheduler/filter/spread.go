package filter

import (
	"fmt"
	"math"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// Constraint is a parsed topology spread constraint.
type Constraint struct {
	TopologyKey string
	MaxSkew     int64
	MinDomains  int
	Selector    labels.Selector

	honorAffinity, honorTaints bool
}

// Constraints parses those constraints of a pod that have the given action.
func Constraints(p *v1.Pod, action v1.UnsatisfiableConstraintAction) ([]Constraint, error) {
	var out []Constraint
	for i := range p.Spec.TopologySpreadConstraints {
		in := &p.Spec.TopologySpreadConstraints[i]
		if in.WhenUnsatisfiable != action {
			continue
		}
		selector, err := metav1.LabelSelectorAsSelector(in.LabelSelector)
		if err != nil {
			return nil, fmt.Errorf("topology spread constraint %d: %w", i, err)
		}
		c := Constraint{TopologyKey: in.TopologyKey, MaxSkew: int64(in.MaxSkew), MinDomains: 1, honorAffinity: true,
			Selector: withKeys(selector, in.MatchLabelKeys, p.Labels)}
		if in.MinDomains != nil {
			c.MinDomains = int(*in.MinDomains)
		}
		if in.NodeAffinityPolicy != nil {
			c.honorAffinity = *in.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor
		}
		if in.NodeTaintsPolicy != nil {
			c.honorTaints = *in.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor
		}
		out = append(out, c)
	}
	return out, nil
}

// withKeys narrows a selector to pods that have the same values as the pod for some label keys (KEP-3243).
func withKeys(s labels.Selector, keys []string, podLabels map[string]string) labels.Selector {
	same := labels.Set{}
	for _, k := range keys {
		if v, ok := podLabels[k]; ok {
			same[k] = v
		}
	}
	requirements, selectable := s.Requirements()
	if len(same) == 0 || !selectable {
		return s
	}
	return labels.SelectorFromSet(same).Add(requirements...)
}

// Counts says whether the node takes part in the sums of this constraint (KEP-3094).
func (c *Constraint) Counts(p *v1.Pod, want nodeaffinity.RequiredNodeAffinity, n *v1.Node) bool {
	if c.honorAffinity {
		if ok, _ := want.Match(n); !ok {
			return false
		}
	}
	return !c.honorTaints || !untolerated(p, n)
}

// Matching counts the node's pods in the namespace that the constraint speaks of. Pods on their way out do not
// count.
func (c *Constraint) Matching(n *snapshot.Node, namespace string) int64 {
	if c.Selector.Empty() {
		return 0
	}
	var count int64
	for _, p := range n.Pods() {
		o := p.Object
		if o.Namespace == namespace && o.DeletionTimestamp == nil && c.Selector.Matches(labels.Set(o.Labels)) {
			count++
		}
	}
	return count
}

// HasKeys says whether the node has all of the constraints' topology keys.
func HasKeys(n *v1.Node, constraints []Constraint) bool {
	for i := range constraints {
		if _, ok := n.Labels[constraints[i].TopologyKey]; !ok {
			return false
		}
	}
	return true
}

// domains are the matching pods per value of a constraint's topology key, over all nodes that count.
type domains struct {
	Constraint
	pods map[string]int64
	min  int64
	self int64 // 1 if the pod itself matches
}

func spread(p *snapshot.Pod, w World) (judge, *Refusal) {
	constraints, err := Constraints(p.Object, v1.DoNotSchedule)
	if err != nil {
		return nil, refusef(0, "%v", err)
	}
	if len(constraints) == 0 {
		return nil, nil
	}
	want := nodeaffinity.GetRequiredNodeAffinity(p.Object)
	all := make([]domains, len(constraints))
	for i, c := range constraints {
		all[i] = domains{Constraint: c, pods: map[string]int64{}}
		if c.Selector.Matches(labels.Set(p.Object.Labels)) {
			all[i].self = 1
		}
	}
	for _, n := range w.Cluster.Nodes() {
		if HasKeys(n.Object, constraints) {
			tally(all, p.Object, want, n)
		}
	}
	for i := range all {
		all[i].min = least(all[i].pods, all[i].MinDomains)
	}
	return func(n *snapshot.Node) Verdict { return skewed(all, n) }, nil
}

func tally(all []domains, p *v1.Pod, want nodeaffinity.RequiredNodeAffinity, n *snapshot.Node) {
	for i := range all {
		d := &all[i]
		if d.Counts(p, want, n.Object) {
			d.pods[n.Object.Labels[d.TopologyKey]] += d.Matching(n, p.Namespace)
		}
	}
}

// least is the smallest count of any domain, 0 while there are fewer domains than wanted.
func least(pods map[string]int64, minDomains int) int64 {
	if len(pods) < minDomains {
		return 0
	}
	least := int64(math.MaxInt32)
	for _, n := range pods {
		least = min(least, n)
	}
	return least
}

func skewed(all []domains, n *snapshot.Node) Verdict {
	const helped = NodeAdded | NodeChanged | PodGone | PodPlaced
	for i := range all {
		d := &all[i]
		value, ok := n.Object.Labels[d.TopologyKey]
		if !ok {
			return refuseForGood(helped, "node(s) didn't match pod topology spread constraints (missing required label)")
		}
		if d.pods[value]+d.self-d.min > d.MaxSkew {
			return refuse(helped, "node(s) didn't match pod topology spread constraints")
		}
	}
	return Verdict{}
}

// DefaultConstraints are those of a pod that brings none: spread it with its siblings over zones, and more
// strictly over nodes.
func DefaultConstraints(siblings labels.Selector) []Constraint {
	return []Constraint{
		{TopologyKey: v1.LabelHostname, MaxSkew: 3, MinDomains: 1, Selector: siblings, honorAffinity: true},
		{TopologyKey: v1.LabelTopologyZone, MaxSkew: 5, MinDomains: 1, Selector: siblings, honorAffinity: true},
	}
}
