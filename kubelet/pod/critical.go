package pod

import v1 "k8s.io/api/core/v1"

// Annotations by which a pod tells where it comes from. Package source writes them, and sees to it that no pod of the API says that it
// is static.
const (
	AnnotationSource = "kubernetes.io/config.source"
	AnnotationMirror = v1.MirrorPodAnnotationKey
)

// SourceAPI is the value of AnnotationSource of pods that are not static.
const SourceAPI = "api"

// Static tells whether a pod comes from a file or a URL, not from the API.
func Static(p *v1.Pod) bool {
	from, told := p.Annotations[AnnotationSource]
	return told && from != SourceAPI
}

// CriticalFrom is the priority of system-cluster-critical, the lower of the system's two classes.
const CriticalFrom = 2_000_000_000

// classNodeCritical is the higher one.
const classNodeCritical = "system-node-critical"

// Critical tells whether the node or the cluster needs the pod (upstream's IsCriticalPod): static pods, their mirrors, and those of the
// system's priority classes. They are never evicted, get room from others, are taken in when the node runs short, and do not swap.
func Critical(p *v1.Pod) bool {
	_, mirror := p.Annotations[AnnotationMirror]
	return mirror || Static(p) || (p.Spec.Priority != nil && *p.Spec.Priority >= CriticalFrom)
}

// NodeCritical tells whether the node cannot do without the pod (upstream's IsNodeCriticalPod): a critical one of that class by name.
// The kernel kills it last.
func NodeCritical(p *v1.Pod) bool {
	return Critical(p) && p.Spec.PriorityClassName == classNodeCritical
}
