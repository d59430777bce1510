package filter

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// unschedulable refuses nodes that are cordoned, unless the pod tolerates the taint that stands for it.
func unschedulable(p *snapshot.Pod, _ World) (judge, *Refusal) {
	cordon := &v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}
	if corev1.TolerationsTolerateTaint(klog.Background(), p.Object.Spec.Tolerations, cordon, false) {
		return nil, nil
	}
	return func(n *snapshot.Node) Verdict {
		if n.Object.Spec.Unschedulable {
			return refuseForGood(NodeAdded|NodeChanged, "node(s) were unschedulable")
		}
		return Verdict{}
	}, nil
}

// Hard says whether a taint keeps intolerant pods off a node.
func Hard(t *v1.Taint) bool {
	return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
}

func taints(p *snapshot.Pod, _ World) (judge, *Refusal) {
	return func(n *snapshot.Node) Verdict {
		if untolerated(p.Object, n.Object) {
			return refuseForGood(NodeAdded|NodeChanged, "node(s) had untolerated taint(s)")
		}
		return Verdict{}
	}, nil
}

func untolerated(p *v1.Pod, n *v1.Node) bool {
	if len(n.Spec.Taints) == 0 {
		return false
	}
	_, found := corev1.FindMatchingUntoleratedTaint(klog.Background(), n.Spec.Taints, p.Spec.Tolerations, Hard, false)
	return found
}

// nodeAffinity is nodeSelector and required node affinity together.
func nodeAffinity(p *snapshot.Pod, _ World) (judge, *Refusal) {
	spec := &p.Object.Spec
	required := spec.Affinity != nil && spec.Affinity.NodeAffinity != nil &&
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil
	if len(spec.NodeSelector) == 0 && !required {
		return nil, nil
	}
	want := nodeaffinity.GetRequiredNodeAffinity(p.Object)
	return func(n *snapshot.Node) Verdict {
		// A term that cannot be parsed matches nothing.
		if ok, _ := want.Match(n.Object); !ok {
			return refuseForGood(NodeAdded|NodeChanged, "node(s) didn't match Pod's node affinity/selector")
		}
		return Verdict{}
	}, nil
}

func ports(p *snapshot.Pod, _ World) (judge, *Refusal) {
	if len(p.Ports) == 0 {
		return nil, nil
	}
	return func(n *snapshot.Node) Verdict {
		if n.Conflicts(p) {
			return refuse(NodeAdded|PodGone, "node(s) didn't have free ports for the requested pod ports")
		}
		return Verdict{}
	}, nil
}

func resources(p *snapshot.Pod, w World) (judge, *Refusal) {
	helped := NodeAdded | NodeChanged | PodGone
	want := p.Requests
	if len(want.Others) > 0 {
		helped |= DevicesChanged
	}
	var others []v1.ResourceName
	for name := range want.Others {
		others = append(others, name)
	}
	slices.Sort(others)
	return func(n *snapshot.Node) Verdict {
		v := Verdict{Helped: helped}
		if int64(len(n.Pods()))+1 > n.MaxPods {
			v.Reasons = append(v.Reasons, "Too many pods")
		}
		short := func(want, used, have int64, name v1.ResourceName) {
			if want > 0 && want > have-used {
				v.Reasons = append(v.Reasons, fmt.Sprintf("Insufficient %s", name))
				v.Unresolvable = v.Unresolvable || want > have
			}
		}
		short(want.MilliCPU, n.Requested.MilliCPU, n.Allocatable.MilliCPU, v1.ResourceCPU)
		short(want.Memory, n.Requested.Memory, n.Allocatable.Memory, v1.ResourceMemory)
		short(want.Storage, n.Requested.Storage, n.Allocatable.Storage, v1.ResourceEphemeralStorage)
		for _, name := range others {
			if w.Devices != nil && w.Devices.Backs(name, n.Object) {
				continue
			}
			short(want.Others[name], n.Requested.Others[name], n.Allocatable.Others[name], name)
		}
		if v.Fits() {
			return Verdict{}
		}
		return v
	}, nil
}
