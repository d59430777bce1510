package evict

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Pod is a pod with what it uses.
type Pod struct {
	*v1.Pod
	// Memory is the working set, Disk the bytes of its writable layers, logs and disk volumes, Processes their number.
	Memory, Disk, Processes int64
	// Containers maps a container's name to what it uses of memory and disk.
	Containers map[string]Use
	// Volumes maps the name of an emptyDir on disk to its bytes.
	Volumes map[string]int64
}

// Use is what one container uses, in bytes.
type Use struct{ Memory, Disk int64 }

// Victim is a pod that has to go, and why, in upstream's words.
type Victim struct {
	Pod     *v1.Pod
	Message string
}

// Choose picks the pod to evict for the shortage, nil when there is none that may go.
func Choose(s Shortage, pods []Pod) *Victim {
	pods = slices.DeleteFunc(slices.Clone(pods), func(p Pod) bool {
		return pod.Critical(p.Pod) || p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
	})
	if len(pods) == 0 {
		return nil
	}
	name, use := measureOf(s.Threshold.Signal)
	slices.SortStableFunc(pods, func(a, b Pod) int {
		aOver, bOver := use(a)-request(a.Pod, name), use(b)-request(b.Pod, name)
		if s.Threshold.Signal == PIDs { // nobody can request process ids
			aOver, bOver = a.Processes, b.Processes
			return cmp.Or(cmp.Compare(priority(a), priority(b)), cmp.Compare(bOver, aOver))
		}
		return cmp.Or(exceeding(bOver)-exceeding(aOver), cmp.Compare(priority(a), priority(b)), cmp.Compare(bOver, aOver))
	})
	return &Victim{Pod: pods[0].Pod, Message: message(s, pods[0], name)}
}

func measureOf(s Signal) (v1.ResourceName, func(Pod) int64) {
	switch s {
	case Memory:
		return v1.ResourceMemory, func(p Pod) int64 { return p.Memory }
	case PIDs:
		return "pids", func(p Pod) int64 { return p.Processes }
	case NodeFsInodes, ImageInodes:
		return "inodes", func(p Pod) int64 { return p.Disk } // inodes of pods are not counted; who has most bytes likely has most files
	}
	return v1.ResourceEphemeralStorage, func(p Pod) int64 { return p.Disk }
}

func exceeding(over int64) int {
	if over > 0 {
		return 1
	}
	return 0
}

func priority(p Pod) int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

func request(p *v1.Pod, name v1.ResourceName) int64 {
	q := helper.PodRequests(p, helper.PodResourcesOptions{})[name]
	return q.Value()
}

// message is what users read in the status of an evicted pod.
func message(s Shortage, p Pod, name v1.ResourceName) string {
	limit := s.Threshold.of(s.Value.Capacity)
	text := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", name, quantity(name, limit), quantity(name, s.Value.Available))
	if name != v1.ResourceMemory && name != v1.ResourceEphemeralStorage {
		return text
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		used := p.Containers[c.Name].Memory
		if name == v1.ResourceEphemeralStorage {
			used = p.Containers[c.Name].Disk
		}
		if asked := c.Resources.Requests[name]; used > asked.Value() {
			text += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, quantity(name, used), asked.String(), name)
		}
	}
	return text
}

func quantity(name v1.ResourceName, n int64) string {
	if name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage {
		if n >= 1024 {
			n = n / 1024 * 1024 // whole KiB read better
		}
		return resource.NewQuantity(n, resource.BinarySI).String()
	}
	return fmt.Sprint(n)
}

// OverLimit says why the pod has to go for its own limits of ephemeral storage, or "".
func OverLimit(p Pod) string {
	for i := range p.Spec.Volumes {
		src := p.Spec.Volumes[i].EmptyDir
		if src == nil || src.SizeLimit == nil || src.SizeLimit.Sign() <= 0 || src.Medium == v1.StorageMediumMemory {
			continue
		}
		if p.Volumes[p.Spec.Volumes[i].Name] > src.SizeLimit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", p.Spec.Volumes[i].Name, src.SizeLimit.String())
		}
	}
	limits := helper.PodLimits(p.Pod, helper.PodResourcesOptions{})
	if q, ok := limits[v1.ResourceEphemeralStorage]; ok && p.Disk > q.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", q.String())
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		if q, ok := c.Resources.Limits[v1.ResourceEphemeralStorage]; ok && p.Containers[c.Name].Disk > q.Value() {
			return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, q.String())
		}
	}
	return ""
}
