package scheduler

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/preempt"
	"github.com/skiff-node/skiff/controlplane/scheduler/score"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// decision is what becomes of a pod: a node, or a refusal, perhaps with victims that make room for a later attempt.
type decision struct {
	Node string

	Message string        // why no node will do
	Helped  filter.Events // what may change that
	Preempt *preempt.Choice
}

// decider holds what decisions are made from. It changes none of it for longer than a call.
type decider struct {
	filters   filter.World
	scores    score.World
	nominated nominations
	budgets   func() []*policyv1.PodDisruptionBudget
	pick      func(n int) int // chooses among n equally good nodes
}

// nominations are the pods that wait for victims to leave a node, by that node's name.
type nominations map[string][]*snapshot.Pod

func (n nominations) add(p *snapshot.Pod, node string) {
	n.remove(p)
	n[node] = append(n[node], p)
}

func (n nominations) remove(p *snapshot.Pod) {
	for node, pods := range n {
		for i := range pods {
			if pods[i].Object.UID != p.Object.UID {
				continue
			}
			if n[node] = slices.Delete(pods, i, i+1); len(n[node]) == 0 {
				delete(n, node)
			}
			return
		}
	}
}

// decide finds the best node for a pod.
func (d *decider) decide(p *snapshot.Pod) decision {
	nodes := d.filters.Cluster.Nodes()
	if len(nodes) == 0 {
		return decision{Message: "no nodes available to schedule pods", Helped: filter.NodeAdded}
	}
	check, refusal := filter.Prepare(p, d.filters)
	if refusal != nil {
		why := tally{}
		why.add(len(nodes), "Preemption is not helpful for scheduling")
		return decision{
			Message: fmt.Sprintf("0/%d nodes are available: %s. preemption: %s", len(nodes), refusal.Reason, why.message(len(nodes))),
			Helped:  refusal.Helped,
		}
	}
	var fit, curable []*snapshot.Node
	why, helped := tally{}, filter.Events(0)
	for _, n := range nodes {
		v := d.judge(check, p, n)
		if v.Fits() {
			fit = append(fit, n)
			continue
		}
		why.add(1, v.Reasons...)
		helped |= v.Helped
		if !v.Unresolvable {
			curable = append(curable, n)
		}
	}
	if len(fit) > 0 {
		return decision{Node: d.best(p, fit).Name()}
	}
	out := decision{Helped: helped}
	var post string
	out.Preempt, post = d.preempt(p, curable)
	out.Message = why.message(len(nodes))
	if post != "" {
		out.Message += " preemption: " + post
	}
	return out
}

// judge judges a node, also as it will be once the pods that were promised room on it, and are as important, are
// there.
func (d *decider) judge(check *filter.Check, p *snapshot.Pod, n *snapshot.Node) filter.Verdict {
	var added []*snapshot.Pod
	for _, other := range d.nominated[n.Name()] {
		if other.Priority >= p.Priority && other.Object.UID != p.Object.UID {
			added = append(added, other)
		}
	}
	for _, other := range added {
		d.filters.Cluster.Put(other, n.Name())
	}
	v := check.Node(n)
	for _, other := range added {
		d.filters.Cluster.Remove(other.Object.UID)
	}
	return v
}

// best is the node with the highest score; of equals, one by chance.
func (d *decider) best(p *snapshot.Pod, fit []*snapshot.Node) *snapshot.Node {
	if len(fit) == 1 {
		return fit[0]
	}
	var top []*snapshot.Node
	var most int64
	for i, s := range score.Nodes(p, d.scores, fit) {
		switch {
		case len(top) == 0 || s > most:
			top, most = append(top[:0], fit[i]), s
		case s == most:
			top = append(top, fit[i])
		}
	}
	return top[d.pick(len(top))]
}

// preempt looks for victims, or says why there are none.
func (d *decider) preempt(p *snapshot.Pod, curable []*snapshot.Node) (*preempt.Choice, string) {
	if policy := p.Object.Spec.PreemptionPolicy; policy != nil && *policy == v1.PreemptNever {
		return nil, "not eligible due to preemptionPolicy=Never."
	}
	if d.waitsForVictims(p) {
		return nil, "not eligible due to a terminating pod on the nominated node."
	}
	var budgets []*policyv1.PodDisruptionBudget
	if d.budgets != nil {
		budgets = d.budgets()
	}
	choice, reasons := preempt.Choose(p, d.filters, curable, budgets)
	if choice != nil {
		return choice, ""
	}
	all := len(d.filters.Cluster.Nodes())
	why := tally{}
	why.add(1, reasons...)
	if hopeless := all - len(curable); hopeless > 0 {
		why.add(hopeless, "Preemption is not helpful for scheduling")
	}
	return nil, why.message(all)
}

// waitsForVictims says whether pods that were asked to leave for this pod are still on their way out.
func (d *decider) waitsForVictims(p *snapshot.Pod) bool {
	n := d.filters.Cluster.Node(p.Object.Status.NominatedNodeName)
	if n == nil {
		return false
	}
	for _, other := range n.Pods() {
		if other.Priority < p.Priority && other.Object.DeletionTimestamp != nil && preempted(other.Object) {
			return true
		}
	}
	return false
}

func preempted(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.DisruptionTarget && c.Status == v1.ConditionTrue && c.Reason == v1.PodReasonPreemptionByScheduler {
			return true
		}
	}
	return false
}

// tally counts nodes by the reason why they were refused.
type tally map[string]int

func (t tally) add(n int, reasons ...string) {
	for _, r := range reasons {
		t[r] += n
	}
}

// message is in the form that people and tools know: "0/3 nodes are available: 1 Insufficient cpu, 2 ….".
func (t tally) message(nodes int) string {
	parts := make([]string, 0, len(t))
	for reason, n := range t {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
}
