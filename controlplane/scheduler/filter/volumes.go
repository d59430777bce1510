package filter

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// Claims returns the claims that a pod's volumes name, or why they cannot be used.
func Claims(p *v1.Pod, vs Volumes) ([]*v1.PersistentVolumeClaim, *Refusal) {
	var out []*v1.PersistentVolumeClaim
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		var name string
		switch {
		case v.PersistentVolumeClaim != nil:
			name = v.PersistentVolumeClaim.ClaimName
		case v.Ephemeral != nil:
			name = ephemeral.VolumeClaimName(p, v)
		default:
			continue
		}
		var claim *v1.PersistentVolumeClaim
		if vs != nil {
			claim = vs.Claim(p.Namespace, name)
		}
		switch {
		case claim == nil && v.Ephemeral != nil:
			return nil, refusef(VolumeChanged, "waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
		case claim == nil:
			return nil, refusef(VolumeChanged, "persistentvolumeclaim %q not found", name)
		case claim.Status.Phase == v1.ClaimLost:
			return nil, refusef(VolumeChanged, "persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
		case claim.DeletionTimestamp != nil:
			return nil, refusef(VolumeChanged, "persistentvolumeclaim %q is being deleted", name)
		}
		if v.Ephemeral != nil {
			if err := ephemeral.VolumeIsForPod(p, claim); err != nil {
				return nil, refusef(VolumeChanged, "%v", err)
			}
		}
		out = append(out, claim)
	}
	return out, nil
}

// Bound says whether a claim has its volume for good.
func Bound(claim *v1.PersistentVolumeClaim) bool {
	_, done := claim.Annotations[volume.AnnBindCompleted]
	return claim.Spec.VolumeName != "" && done
}

// volumes refuses nodes from which a claim's volume cannot be reached, and, for a claim that waits for its first
// consumer, nodes on which its class cannot provide one. Claims of other classes must be bound already.
func volumes(p *snapshot.Pod, w World) (judge, *Refusal) {
	claims, refusal := Claims(p.Object, w.Volumes)
	if refusal != nil || len(claims) == 0 {
		return nil, refusal
	}
	var bound []*v1.PersistentVolume
	var waiting []*storagev1.StorageClass
	for _, claim := range claims {
		if slices.Contains(claim.Spec.AccessModes, v1.ReadWriteOncePod) && w.Volumes.ClaimUsers(claim.Namespace, claim.Name) > 0 {
			return nil, refusef(PodGone|VolumeChanged,
				"node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
		}
		if Bound(claim) {
			bound = append(bound, w.Volumes.Volume(claim.Spec.VolumeName))
			continue
		}
		class := w.Volumes.Class(volume.GetPersistentVolumeClaimClass(claim))
		if class == nil || class.VolumeBindingMode == nil || *class.VolumeBindingMode != storagev1.VolumeBindingWaitForFirstConsumer {
			return nil, refusef(VolumeChanged, "pod has unbound immediate PersistentVolumeClaims")
		}
		waiting = append(waiting, class)
	}
	return func(n *snapshot.Node) Verdict { return reachable(n.Object, bound, waiting) }, nil
}

func reachable(n *v1.Node, bound []*v1.PersistentVolume, waiting []*storagev1.StorageClass) Verdict {
	const helped = NodeAdded | NodeChanged | VolumeChanged
	for _, pv := range bound {
		if pv == nil {
			return refuseForGood(helped, "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
		}
		if pv.Spec.NodeAffinity == nil || pv.Spec.NodeAffinity.Required == nil {
			continue
		}
		if ok, err := corev1.MatchNodeSelectorTerms(n, pv.Spec.NodeAffinity.Required); err != nil || !ok {
			return refuseForGood(helped, "node(s) didn't match PersistentVolume's node affinity")
		}
	}
	for _, class := range waiting {
		if class.Provisioner == volume.NotSupportedProvisioner || !allowed(class, n) {
			return refuseForGood(helped, "node(s) didn't find available persistent volumes to bind")
		}
	}
	return Verdict{}
}

// allowed says whether the class provides volumes for the node.
func allowed(class *storagev1.StorageClass, n *v1.Node) bool {
	if len(class.AllowedTopologies) == 0 {
		return true
	}
	var terms []v1.NodeSelectorTerm
	for _, t := range class.AllowedTopologies {
		var term v1.NodeSelectorTerm
		for _, e := range t.MatchLabelExpressions {
			term.MatchExpressions = append(term.MatchExpressions,
				v1.NodeSelectorRequirement{Key: e.Key, Operator: v1.NodeSelectorOpIn, Values: e.Values})
		}
		terms = append(terms, term)
	}
	ok, err := nodeaffinity.NewLazyErrorNodeSelector(&v1.NodeSelector{NodeSelectorTerms: terms}).Match(n)
	return err == nil && ok
}
