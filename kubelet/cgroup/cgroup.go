// Package cgroup keeps the tree of control groups in which the pods of a node run, and their limits:
//
//	kubepods                         all pods; its limit is what the node lets pods have (allocatable)
//	kubepods/pod<uid>                a pod of class Guaranteed
//	kubepods/burstable/pod<uid>      a pod of class Burstable
//	kubepods/besteffort/pod<uid>     a pod of class BestEffort
//
// The class of a pod follows from its requests and limits. Below a pod's group the runtime makes one per container. The
// names are upstream's, because agents find a pod's processes by them.
//
// What is to be written is a pure function of the pod (PodLimits) and of the version of control groups (Files); the
// Manager writes it. With the systemd driver each group is a slice (kubepods-burstable-pod<uid>.slice): systemd makes it, is told
// its limits as properties (Properties), and they are written to its files as well, as OCI runtimes do. Version 1 has a tree per controller, which need not be mounted together (cpu and cpuacct apart, say);
// version 2 has one tree. Both are found in mountinfo. In the hybrid set-up, version 1 has the controllers.
package cgroup

import (
	"fmt"
	"path"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Class is the quality of service of a pod.
type Class = v1.PodQOSClass

// names are the directories of the tree.
const (
	top        = "kubepods"
	burstable  = "burstable"
	bestEffort = "besteffort"
)

// Path is the cgroup of a pod below the root, for the cgroupfs driver: /kubepods/burstable/pod<uid>.
func Path(root string, class Class, uid types.UID) string {
	return path.Join("/", root, top, tier(class), "pod"+string(uid))
}

// Slice is the cgroup of a pod for the systemd driver, as a slice's name: kubepods-burstable-pod<uid>.slice. The dashes of
// the uid become underscores, because systemd reads a dash as a step down the tree.
func Slice(root string, class Class, uid types.UID) string {
	return path.Base(expand(path.Join(root, top, tier(class), "pod"+string(uid))))
}

// tier is the directory of a class; Guaranteed pods have none.
func tier(class Class) string {
	switch class {
	case v1.PodQOSBurstable:
		return burstable
	case v1.PodQOSBestEffort:
		return bestEffort
	}
	return ""
}

// ClassOf is the class of the pod: Guaranteed when each container has limits for cpu and memory that equal its requests,
// BestEffort when none has any, else Burstable. Resources of the pod as a whole, where given, count instead of the containers'.
func ClassOf(pod *v1.Pod) Class {
	if r := pod.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		return classOf([]v1.ResourceRequirements{*r})
	}
	var all []v1.ResourceRequirements
	for i := range pod.Spec.InitContainers {
		all = append(all, pod.Spec.InitContainers[i].Resources)
	}
	for i := range pod.Spec.Containers {
		all = append(all, pod.Spec.Containers[i].Resources)
	}
	return classOf(all)
}

func classOf(all []v1.ResourceRequirements) Class {
	guaranteed, any := true, false
	for _, r := range all {
		for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
			request, limit := r.Requests[name], r.Limits[name]
			if !request.IsZero() || !limit.IsZero() {
				any = true
			}
			// A request that is not given is that of the limit (the API server fills it in).
			if limit.IsZero() || (!request.IsZero() && request.Cmp(limit) != 0) {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return v1.PodQOSBestEffort
	case guaranteed:
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

// Version is the version of control groups.
type Version int

// The versions.
const (
	V1 Version = 1
	V2 Version = 2
)

func (v Version) String() string { return fmt.Sprintf("v%d", int(v)) }
