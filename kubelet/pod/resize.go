package pod

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// WholePod is the name under which Observed.Actual holds the resources of the pod as a whole (KEP-2837).
const WholePod = ""

// Resize gives a running container, or the pod as a whole, other resources, without restarting anything.
type Resize struct {
	// ID and Name of the container; both are empty when the pod as a whole is meant.
	ID, Name string
	// SandboxID is the pod's sandbox.
	SandboxID string
	// From is what it has, To what it shall have. Both hold the limits that count, see Effective.
	From, To v1.ResourceRequirements
}

// Effective are the resources that count for a container: where it has no limit, that of the pod as a whole bounds it.
func Effective(whole *v1.ResourceRequirements, r v1.ResourceRequirements) v1.ResourceRequirements {
	if whole == nil {
		return r
	}
	limits, copied := r.Limits, false
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		own := r.Limits[name]
		q, ok := whole.Limits[name]
		if !ok || q.IsZero() || !own.IsZero() {
			continue
		}
		if !copied {
			limits, copied = r.Limits.DeepCopy(), true
		}
		if limits == nil {
			limits = v1.ResourceList{}
		}
		limits[name] = q
	}
	r.Limits = limits
	return r
}

// resizePlanner plans the resizes of one pod.
type resizePlanner struct{ *planner }

// container plans what to do about a running container that has other resources than the spec (which holds what the node has
// granted): tell the runtime, or restart the container where its policy says so.
func (pl resizePlanner) container(c *v1.Container, last *Container) {
	has, known := pl.o.Actual[c.Name]
	if !known {
		return
	}
	want := Effective(pl.d.Pod.Spec.Resources, c.Resources)
	changed := changedResources(has, want)
	if len(changed) == 0 {
		return
	}
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy == v1.RestartContainer && slices.Contains(changed, p.ResourceName) {
			pl.kill(last, Kill{Cause: CauseResize, Restart: true, Message: fmt.Sprintf("Container %s resize requires restart", c.Name)}, true)
			return
		}
	}
	step := Resize{ID: last.ID, Name: c.Name, SandboxID: last.SandboxID, From: has, To: want}
	if shrinks(&step) {
		pl.acts.Resizes = slices.Insert(pl.acts.Resizes, 0, step)
	} else {
		pl.acts.Resizes = append(pl.acts.Resizes, step)
	}
}

// whole plans the resize of the pod as a whole. Its containers, those without limits of their own above all, have theirs
// planned apart.
func (pl resizePlanner) whole() {
	want := pl.d.Pod.Spec.Resources
	has, known := pl.o.Actual[WholePod]
	if want == nil || !known || len(pl.o.Sandboxes) == 0 || len(changedResources(has, *want)) == 0 {
		return
	}
	pl.acts.Resizes = append(pl.acts.Resizes, Resize{SandboxID: pl.o.Sandboxes[0].ID, From: has, To: *want})
}

// changedResources names what differs between the two.
func changedResources(a, b v1.ResourceRequirements) []v1.ResourceName {
	var names []v1.ResourceName
	for _, n := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if differ(a.Requests[n], b.Requests[n]) || differ(a.Limits[n], b.Limits[n]) {
			names = append(names, n)
		}
	}
	return names
}

// shrinks tells whether a resize frees anything: those go first.
func shrinks(r *Resize) bool {
	for _, n := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		if less(r.To.Requests[n], r.From.Requests[n]) || less(r.To.Limits[n], r.From.Limits[n]) {
			return true
		}
	}
	return false
}

// Resizing tells whether a running container, or the pod as a whole, has other resources than the spec: a resize is in
// progress.
func Resizing(p *v1.Pod, o *Observed) bool {
	if has, known := o.Actual[WholePod]; known && p.Spec.Resources != nil && len(changedResources(has, *p.Spec.Resources)) > 0 {
		return true
	}
	for i := range o.Containers {
		c := &o.Containers[i]
		spec := Find(p, c.Name)
		has, known := o.Actual[c.Name]
		if spec == nil || !known || c.State != Running || o.Newest(c.Name) != c {
			continue
		}
		if len(changedResources(has, Effective(p.Spec.Resources, spec.Resources))) > 0 {
			return true
		}
	}
	return false
}

func differ(a, b resource.Quantity) bool { return a.Cmp(b) != 0 }

func less(a, b resource.Quantity) bool { return a.Cmp(b) < 0 }
