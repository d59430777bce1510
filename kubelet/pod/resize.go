package pod

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Resize gives a running container other resources, without restarting it.
type Resize struct {
	ID, Name string
	// From is what it has, To what it shall have.
	From, To v1.ResourceRequirements
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
	changed := changedResources(has, c.Resources)
	if len(changed) == 0 {
		return
	}
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy == v1.RestartContainer && slices.Contains(changed, p.ResourceName) {
			pl.kill(last, Kill{Cause: CauseResize, Restart: true, Message: fmt.Sprintf("Container %s resize requires restart", c.Name)}, true)
			return
		}
	}
	step := Resize{ID: last.ID, Name: c.Name, From: has, To: c.Resources}
	if shrinks(&step) {
		pl.acts.Resizes = slices.Insert(pl.acts.Resizes, 0, step)
	} else {
		pl.acts.Resizes = append(pl.acts.Resizes, step)
	}
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

// Resizing tells whether a running container has other resources than the spec: a resize is in progress.
func Resizing(p *v1.Pod, o *Observed) bool {
	for i := range o.Containers {
		c := &o.Containers[i]
		spec := Find(p, c.Name)
		has, known := o.Actual[c.Name]
		if spec != nil && known && c.State == Running && o.Newest(c.Name) == c && len(changedResources(has, spec.Resources)) > 0 {
			return true
		}
	}
	return false
}

func differ(a, b resource.Quantity) bool { return a.Cmp(b) != 0 }

func less(a, b resource.Quantity) bool { return a.Cmp(b) < 0 }
