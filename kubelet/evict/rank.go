package evict

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"
	corev1 "k8s.io/component-helpers/scheduling/corev1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Pod is a pod with what it uses.
type Pod struct {
	*v1.Pod
	// Measured is false for a pod that the runtime told nothing of.
	Measured bool
	// Memory is the working set in bytes, Processes their number.
	Memory, Processes int64
	// Containers maps a container's name to what it uses.
	Containers map[string]Use
	// Volumes maps the name of an emptyDir on disk to what it takes.
	Volumes map[string]Disk
}

// Use is what one container uses: bytes of memory, and disk by its writable layer and its logs.
type Use struct {
	Memory     int64
	Root, Logs Disk
}

// Victim is a pod that has to go, and why, in upstream's words. Signal is what its eviction is counted as.
type Victim struct {
	Pod     *v1.Pod
	Message string
	Signal  Signal
	// Hard pods get one second to end, others their own grace period.
	Hard bool
}

// Choose picks the pod to evict for the shortage, nil when there is none that may go. Upstream's order: who uses more than it
// requested (or is not known), then by priority, then who uses most above its request.
func Choose(s Shortage, l Layout, pods []Pod) *Victim {
	pods = slices.DeleteFunc(slices.Clone(pods), func(p Pod) bool {
		return pod.Critical(p.Pod) || pod.Terminal(p.Status.Phase)
	})
	if len(pods) == 0 {
		return nil
	}
	name := resourceOf(s.Threshold.Signal)
	slices.SortStableFunc(pods, func(a, b Pod) int {
		aOver, aMore := rank(a, s.Threshold.Signal, l)
		bOver, bMore := rank(b, s.Threshold.Signal, l)
		if s.Threshold.Signal == PIDs { // nobody can request process ids
			return cmp.Or(cmp.Compare(corev1.PodPriority(a.Pod), corev1.PodPriority(b.Pod)), first(!a.Measured, !b.Measured), cmp.Compare(bMore, aMore))
		}
		return cmp.Or(first(!a.Measured, !b.Measured), first(aOver, bOver), cmp.Compare(corev1.PodPriority(a.Pod), corev1.PodPriority(b.Pod)), cmp.Compare(bMore, aMore))
	})
	return &Victim{Pod: pods[0].Pod, Message: message(s, pods[0], name), Signal: s.Threshold.Signal, Hard: s.Threshold.Grace == 0}
}

// rank tells whether a pod uses more than it requested, and how much more.
func rank(p Pod, s Signal, l Layout) (over bool, more int64) {
	switch name := resourceOf(s); name {
	case v1.ResourceMemory:
		more = p.Memory - request(p.Pod, name)
		return more > 0, more
	case resourcePids:
		return false, p.Processes
	case resourceInodes: // nobody can request them. Upstream takes the bytes that were requested off their number, and so who requested any goes last
		used := p.disk(l.parts(s)).Inodes
		return used > 0, used - request(p.Pod, v1.ResourceEphemeralStorage)
	}
	more = p.disk(l.parts(s)).Bytes - request(p.Pod, v1.ResourceEphemeralStorage)
	return more > 0, more
}

// What is called so in messages only.
const (
	resourceInodes v1.ResourceName = "inodes"
	resourcePids   v1.ResourceName = "pids"
)

// resourceOf is what a signal is about.
func resourceOf(s Signal) v1.ResourceName {
	switch s {
	case Memory:
		return v1.ResourceMemory
	case PIDs:
		return resourcePids
	case NodeFsInodes, ImageInodes:
		return resourceInodes
	}
	return v1.ResourceEphemeralStorage
}

// first puts what is true before what is not.
func first(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func request(p *v1.Pod, name v1.ResourceName) int64 {
	q := helper.PodRequests(p, helper.PodResourcesOptions{})[name]
	return q.Value()
}

// message is what users read in the status of an evicted pod.
func message(s Shortage, p Pod, name v1.ResourceName) string {
	limit := s.Threshold.Of(s.Value.Capacity)
	text := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", name, quantity(name, limit), quantity(name, s.Value.Available))
	if name != v1.ResourceMemory && name != v1.ResourceEphemeralStorage {
		return text
	}
	for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		used := p.Containers[c.Name].Memory
		if name == v1.ResourceEphemeralStorage {
			used = p.Containers[c.Name].Root.Bytes + p.Containers[c.Name].Logs.Bytes
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

// lasting are the containers of a pod that are to run as long as it does.
func lasting(p *v1.Pod) []v1.Container {
	list := slices.Clone(p.Spec.Containers)
	for _, c := range p.Spec.InitContainers {
		if pod.Sidecar(&c) {
			list = append(list, c)
		}
	}
	return list
}

// What evictions of pods above their own limits are counted as.
const (
	VolumeLimit    Signal = "emptydirfs.limit"
	PodLimit       Signal = "ephemeralpodfs.limit"
	ContainerLimit Signal = "ephemeralcontainerfs.limit"
)

// OverLimit tells whether the pod has to go for its own limits of ephemeral storage; nil if not. A container is held to its limit with
// its logs alone where its layer lies on a file system of its own, as upstream's.
func OverLimit(p Pod, l Layout) *Victim {
	over := func(s Signal, format string, args ...any) *Victim {
		return &Victim{Pod: p.Pod, Message: fmt.Sprintf(format, args...), Signal: s, Hard: true}
	}
	for i := range p.Spec.Volumes {
		src := p.Spec.Volumes[i].EmptyDir
		if src == nil || src.SizeLimit == nil || src.SizeLimit.Sign() <= 0 || src.Medium == v1.StorageMediumMemory {
			continue
		}
		if p.Volumes[p.Spec.Volumes[i].Name].Bytes > src.SizeLimit.Value() {
			return over(VolumeLimit, "Usage of EmptyDir volume %q exceeds the limit %q. ", p.Spec.Volumes[i].Name, src.SizeLimit.String())
		}
	}
	limits := helper.PodLimits(p.Pod, helper.PodResourcesOptions{})
	if q, ok := limits[v1.ResourceEphemeralStorage]; ok && p.disk([]part{root, logs, volumes}).Bytes > q.Value() {
		return over(PodLimit, "Pod ephemeral local storage usage exceeds the total limit of containers %s. ", q.String())
	}
	for _, c := range lasting(p.Pod) {
		used := p.Containers[c.Name].Logs.Bytes
		if !l.Images {
			used += p.Containers[c.Name].Root.Bytes
		}
		if q, ok := c.Resources.Limits[v1.ResourceEphemeralStorage]; ok && used > q.Value() {
			return over(ContainerLimit, "Container %s exceeded its local ephemeral storage limit %q. ", c.Name, q.String())
		}
	}
	return nil
}
