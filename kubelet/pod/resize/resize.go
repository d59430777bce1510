// Package resize decides about changes of the resources of pods that run (KEP-1287, KEP-5419). It is pure.
//
// Three values of each resource are told apart:
//
//	desired   what the spec says; anybody may change it at any time
//	granted   what the node has agreed to; all that the node counts and does goes by it
//	actual    what a running container has got
//
//	desired ──fits──► granted ──runtime told, or container restarted──► actual
//	   └─does not fit─► condition PodResizePending: Deferred (may fit later) or Infeasible (never will)
//
// While actual differs from granted the condition is PodResizeInProgress.
//
// What was granted and what is actual is in the status in the API, and on disk (package record): a kubelet that was restarted
// believes the latter, for the API may have been away.
package resize

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Whole is the name under which an Allocation holds the resources of the pod as a whole.
const Whole = pod.WholePod

// Allocation is resources by container name.
type Allocation map[string]v1.ResourceRequirements

// Empty tells whether nothing is asked for and nothing bounded.
func (a Allocation) Empty() bool {
	for _, r := range a {
		if len(r.Requests)+len(r.Limits)+len(r.Claims) > 0 {
			return false
		}
	}
	return true
}

// Of is what the spec of the pod desires.
func Of(p *v1.Pod) Allocation {
	a := Allocation{}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			a[list[i].Name] = list[i].Resources
		}
	}
	if p.Spec.Resources != nil {
		a[Whole] = *p.Spec.Resources
	}
	return a
}

// Apply gives the pod with the resources of a in its spec: p itself when they are there already.
func Apply(p *v1.Pod, a Allocation) *v1.Pod {
	if Same(Of(p), a) {
		return p
	}
	p = p.DeepCopy()
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if r, ok := a[list[i].Name]; ok {
				list[i].Resources = *r.DeepCopy()
			}
		}
	}
	if r, ok := a[Whole]; ok {
		p.Spec.Resources = r.DeepCopy()
	}
	return p
}

// Same tells whether both have the same for every container that both know.
func Same(a, b Allocation) bool {
	for name, r := range a {
		if other, ok := b[name]; ok && !equality.Semantic.DeepEqual(r, other) {
			return false
		}
	}
	return true
}

// FromStatus reads granted and actual from the API's status, for a kubelet that has just begun. What the status does not
// tell is as the spec says.
func FromStatus(p *v1.Pod) (granted, actual Allocation) {
	granted, actual = Of(p), Allocation{}
	settled := inProgress(p)
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for i := range list {
			st := &list[i]
			want, ok := granted[st.Name]
			if !ok || st.Resources == nil || st.State.Running == nil {
				continue
			}
			has := within(*st.Resources, want)
			if !settled || !equality.Semantic.DeepEqual(st.AllocatedResources, want.Requests) {
				granted[st.Name] = has
			}
			actual[st.Name] = pod.Effective(p.Spec.Resources, has)
		}
	}
	if r := p.Status.Resources; r != nil && p.Spec.Resources != nil {
		actual[Whole] = within(*r, *p.Spec.Resources)
		if !settled {
			granted[Whole] = actual[Whole]
		}
	}
	return granted, actual
}

// within leaves of r what the spec mentions: a status also tells of what follows from other fields.
func within(r, spec v1.ResourceRequirements) v1.ResourceRequirements {
	pick := func(list, like v1.ResourceList) v1.ResourceList {
		if like == nil {
			return nil
		}
		out := v1.ResourceList{}
		for name, q := range like {
			if has, ok := list[name]; ok {
				q = has
			}
			out[name] = q
		}
		return out
	}
	out := *spec.DeepCopy()
	out.Requests, out.Limits = pick(r.Requests, spec.Requests), pick(r.Limits, spec.Limits)
	return out
}

// inProgress tells whether the status says that what the spec desires was granted, and is being carried out.
func inProgress(p *v1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodResizeInProgress {
			return c.Status == v1.ConditionTrue && c.ObservedGeneration == p.Generation
		}
	}
	return false
}

// Refusal is why what is desired is not granted.
type Refusal struct {
	// Reason is v1.PodReasonDeferred or v1.PodReasonInfeasible.
	Reason, Message string
	// Detail is upstream's word for the reason in metrics, when the resize is infeasible.
	Detail string
}

// Node is what a resize has to fit.
type Node struct {
	Allocatable v1.ResourceList
	// ExclusiveCPUs and ExclusiveMemory: a manager gives Guaranteed pods their own. Names its policy.
	ExclusiveCPUs, ExclusiveMemory string
	// Swaps tells whether a container may use swap; its share of it follows from its request, and stays. May be nil.
	Swaps func(p *v1.Pod, c *v1.Container) bool
}

// Decide tells whether the pod's desired resources can be granted beside the others, which are given with what they were
// granted. nil grants them. What does not fit is deferred, as upstream has it since 1.37, even where it is more than the whole
// node has: the node may grow, and a resize that waits may be taken back. Infeasible is what no change of others can help.
func Decide(p *v1.Pod, granted Allocation, others []*v1.Pod, n Node) *Refusal {
	if r := swapping(p, granted, n); r != nil {
		return r
	}
	if r := exclusive(p, granted, n); r != nil {
		return r
	}
	before := requests(Apply(p, granted))
	wanted := requests(p)
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		most, known := n.Allocatable[name]
		want, had := wanted[name], before[name]
		if !known || want.Cmp(had) <= 0 {
			continue // a request that does not grow always fits
		}
		used := resource.Quantity{}
		for _, o := range others {
			if o.UID != p.UID {
				used.Add(requests(o)[name])
			}
		}
		sum := used.DeepCopy()
		sum.Add(want)
		if sum.Cmp(most) > 0 {
			return &Refusal{Reason: v1.PodReasonDeferred, Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
				name, amount(name, want), amount(name, used), amount(name, most))}
		}
	}
	return nil
}

// swapping refuses to change the memory request of a container that uses swap, or would, unless it is restarted for it.
func swapping(p *v1.Pod, granted Allocation, n Node) *Refusal {
	if n.Swaps == nil {
		return nil
	}
	before := Apply(p, granted)
	for _, lists := range [][2][]v1.Container{{before.Spec.InitContainers, p.Spec.InitContainers}, {before.Spec.Containers, p.Spec.Containers}} {
		for i := range lists[1] {
			was, is := &lists[0][i], &lists[1][i]
			restarts := slices.ContainsFunc(was.ResizePolicy, func(r v1.ContainerResizePolicy) bool {
				return r.ResourceName == v1.ResourceMemory && r.RestartPolicy == v1.RestartContainer
			})
			if was.Resources.Requests.Memory().Equal(*is.Resources.Requests.Memory()) || restarts {
				continue
			}
			if n.Swaps(before, was) || n.Swaps(p, is) {
				return &Refusal{v1.PodReasonInfeasible, "In-place resize of containers with swap is not supported.", "swap_limitation"}
			}
		}
	}
	return nil
}

func exclusive(p *v1.Pod, granted Allocation, n Node) *Refusal {
	if pod.QOS(p) != v1.PodQOSGuaranteed {
		return nil
	}
	for _, m := range []struct {
		policy, kind string
		name         v1.ResourceName
	}{{n.ExclusiveCPUs, "CPU", v1.ResourceCPU}, {n.ExclusiveMemory, "Memory", v1.ResourceMemory}} {
		if m.policy == "" {
			continue
		}
		for name, want := range Of(p) {
			w, h := want.Requests[m.name], granted[name].Requests[m.name]
			if w.Cmp(h) != 0 {
				return &Refusal{v1.PodReasonInfeasible,
					fmt.Sprintf("Resize is infeasible for Guaranteed Pods alongside %s Manager policy %q", m.kind, m.policy),
					fmt.Sprintf("guaranteed_pod_%s_manager_%s_policy", strings.ToLower(m.kind), strings.ToLower(m.policy))}
			}
		}
	}
	return nil
}

func requests(p *v1.Pod) v1.ResourceList {
	return resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
}

func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// Summary is what events about a resize say after their first words, as upstream writes it.
func Summary(p *v1.Pod, generation int64, problem string) string {
	type container struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources,omitempty"`
	}
	var s struct {
		InitContainers []container `json:"initContainers,omitempty"`
		Containers     []container `json:"containers,omitempty"`
		Generation     int64       `json:"generation"`
		Error          string      `json:"error,omitempty"`
	}
	s.Generation, s.Error = generation, problem
	for _, c := range p.Spec.InitContainers {
		s.InitContainers = append(s.InitContainers, container{c.Name, c.Resources})
	}
	for _, c := range p.Spec.Containers {
		s.Containers = append(s.Containers, container{c.Name, c.Resources})
	}
	raw, err := json.Marshal(s)
	if err != nil {
		return err.Error() // quantities always marshal
	}
	return string(raw)
}
