// Package preempt decides which pods of lower priority must go so that a pod fits on a node.
//
// The choice is upstream's: first free a node of all pods of lower priority; if the pod fits then, put back as many
// as possible, the important ones first and those protected by a disruption budget before others. Of several nodes
// take the one that violates the fewest budgets, then whose most important victim is the least important, then the
// smallest sum of priorities, then the fewest victims, then those that started last.
package preempt

import (
	"cmp"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// mostCandidates bounds the nodes that are tried in a large cluster.
const mostCandidates = 100

// Choice is a node and the pods that must leave it.
type Choice struct {
	Node    *snapshot.Node
	Victims []*snapshot.Pod

	violations int
}

// Choose looks for the best node among those given, on each of which the pod was refused for a reason that
// fewer pods may cure. It returns nil and, for each node, why not, if there is none. The cluster is changed while it
// runs and is as before when it returns.
func Choose(p *snapshot.Pod, w filter.World, nodes []*snapshot.Node, budgets []*policyv1.PodDisruptionBudget) (*Choice, []string) {
	var best *Choice
	var reasons []string
	tries := max(mostCandidates, len(nodes)/10)
	for _, n := range nodes {
		c, why := onNode(p, w, n, budgets)
		if c == nil {
			reasons = append(reasons, why...)
			continue
		}
		if best == nil || better(c, best) {
			best = c
		}
		if tries--; tries == 0 {
			break
		}
	}
	if best != nil {
		return best, nil
	}
	return nil, reasons
}

// onNode finds the fewest victims on one node.
func onNode(p *snapshot.Pod, w filter.World, n *snapshot.Node, budgets []*policyv1.PodDisruptionBudget) (*Choice, []string) {
	var lower []*snapshot.Pod
	for _, other := range n.Pods() {
		if other.Priority < p.Priority {
			lower = append(lower, other)
		}
	}
	if len(lower) == 0 {
		return nil, []string{"No preemption victims found for incoming pod"}
	}
	for _, v := range lower {
		w.Cluster.Remove(v.Object.UID)
	}
	out := map[*snapshot.Pod]bool{}
	defer func() {
		for _, v := range lower {
			if w.Cluster.Pod(v.Object.UID) == nil {
				w.Cluster.Put(v, n.Name())
			}
		}
	}()
	if why := fits(p, w, n); why != nil {
		return nil, why
	}
	slices.SortFunc(lower, byImportance)
	violating, others := split(lower, budgets)
	c := &Choice{Node: n}
	for i, group := range [][]*snapshot.Pod{violating, others} {
		for _, v := range group {
			w.Cluster.Put(v, n.Name())
			if fits(p, w, n) == nil {
				continue
			}
			w.Cluster.Remove(v.Object.UID)
			out[v] = true
			if i == 0 {
				c.violations++
			}
		}
	}
	for _, v := range lower {
		if out[v] {
			c.Victims = append(c.Victims, v)
		}
	}
	return c, nil
}

// fits returns nil or the reasons why not.
func fits(p *snapshot.Pod, w filter.World, n *snapshot.Node) []string {
	check, refusal := filter.Prepare(p, w)
	if refusal != nil {
		return []string{refusal.Reason}
	}
	return check.Node(n).Reasons
}

// split sets those pods apart whose removal some budget would not allow any more.
func split(pods []*snapshot.Pod, budgets []*policyv1.PodDisruptionBudget) (violating, others []*snapshot.Pod) {
	left := make([]int32, len(budgets))
	for i, b := range budgets {
		left[i] = b.Status.DisruptionsAllowed
	}
	for _, p := range pods {
		violates := false
		for i, b := range budgets {
			if !covers(b, p.Object) {
				continue
			}
			left[i]--
			violates = violates || left[i] < 0
		}
		if violates {
			violating = append(violating, p)
		} else {
			others = append(others, p)
		}
	}
	return violating, others
}

func covers(b *policyv1.PodDisruptionBudget, p *v1.Pod) bool {
	if b.Namespace != p.Namespace || len(p.Labels) == 0 {
		return false
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil || selector.Empty() || !selector.Matches(labels.Set(p.Labels)) {
		return false
	}
	_, already := b.Status.DisruptedPods[p.Name]
	return !already
}

// byImportance orders pods: higher priority first, then the longer running.
func byImportance(a, b *snapshot.Pod) int {
	if a.Priority != b.Priority {
		return cmp.Compare(b.Priority, a.Priority)
	}
	return started(a).Compare(started(b))
}

func started(p *snapshot.Pod) time.Time {
	if p.Object.Status.StartTime != nil {
		return p.Object.Status.StartTime.Time
	}
	// A pod that has not started yet has run the shortest.
	return time.Unix(1<<40, 0)
}

// better compares two choices.
func better(a, b *Choice) bool {
	if a.violations != b.violations {
		return a.violations < b.violations
	}
	if x, y := highest(a), highest(b); x != y {
		return x < y
	}
	if x, y := sum(a), sum(b); x != y {
		return x < y
	}
	if len(a.Victims) != len(b.Victims) {
		return len(a.Victims) < len(b.Victims)
	}
	return earliest(a).After(earliest(b))
}

// highest is the priority of the most important victim; victims are ordered by importance.
func highest(c *Choice) int32 {
	if len(c.Victims) == 0 {
		return -1 << 31
	}
	return c.Victims[0].Priority
}

// sum adds up priorities, shifted so that a negative one still counts as a victim.
func sum(c *Choice) int64 {
	var s int64
	for _, v := range c.Victims {
		s += int64(v.Priority) + 1<<31
	}
	return s
}

// earliest is when the first of the most important victims started.
func earliest(c *Choice) time.Time {
	if len(c.Victims) == 0 {
		return time.Time{}
	}
	return started(c.Victims[0])
}
