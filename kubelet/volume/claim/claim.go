// Package claim finds the persistent volume behind a pod's persistentVolumeClaim or ephemeral volume, and says in upstream's
// words why there is none. Volumes of types that a CSI driver has taken over are made that driver's.
//
// The Node authorizer lets a kubelet get the claims and volumes of its pods, and neither list nor watch them. So they are read
// when a pod starts and again on the slow beat on which volumes are looked at for growth.
package claim

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	skiffvolume "github.com/skiff-node/skiff/kubelet/volume"
)

// protection is the finalizer that keeps a claim while pods use it.
const protection = "kubernetes.io/pvc-protection"

// Finder implements volume.Claims.
type Finder struct {
	Client kubernetes.Interface
	// Node is the kubelet's own Node, for the labels that a volume's node affinity asks for; nil when it is not known yet.
	Node func() *v1.Node
}

// Resolve implements volume.Claims.
func (f Finder) Resolve(ctx context.Context, pod *v1.Pod, vol *v1.Volume) (*skiffvolume.Claimed, error) {
	name, readOnly := "", false
	switch src := vol.PersistentVolumeClaim; {
	case src != nil:
		name, readOnly = src.ClaimName, src.ReadOnly
	case vol.Ephemeral == nil:
		return inline(pod, vol)
	default:
		name = ephemeral.VolumeClaimName(pod, vol)
	}
	claim, err := f.claim(ctx, pod.Namespace, name)
	if err == nil && vol.Ephemeral != nil {
		if err := ephemeral.VolumeIsForPod(pod, claim); err != nil {
			return nil, err
		}
	}
	var pv *v1.PersistentVolume
	if err == nil {
		pv, err = f.volume(ctx, claim)
	}
	if err == nil {
		pv, err = migrated(pv)
	}
	if err != nil {
		return nil, fmt.Errorf("error processing PVC %s/%s: %w", pod.Namespace, name, err)
	}
	if err := f.reachable(pv); err != nil {
		return nil, &skiffvolume.SetupError{Volume: pv.Name, Step: "MountVolume.NodeAffinity check", Err: err}
	}
	return &skiffvolume.Claimed{Claim: claim, Volume: pv, ReadOnly: readOnly}, nil
}

// claim reads a claim that is bound and may be used.
func (f Finder) claim(ctx context.Context, namespace, name string) (*v1.PersistentVolumeClaim, error) {
	c, err := f.Client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("failed to fetch PVC from API server: %w", err)
	case c.DeletionTimestamp != nil && !slices.Contains(c.Finalizers, protection):
		return nil, errors.New("PVC is being deleted")
	case c.Status.Phase != v1.ClaimBound:
		return nil, errors.New("PVC is not bound")
	case c.Spec.VolumeName == "":
		return nil, errors.New("PVC has empty pvc.Spec.VolumeName")
	}
	return c, nil
}

// volume reads the persistent volume that is bound to the claim, and to no other.
func (f Finder) volume(ctx context.Context, claim *v1.PersistentVolumeClaim) (*v1.PersistentVolume, error) {
	name := claim.Spec.VolumeName
	pv, err := f.Client.CoreV1().PersistentVolumes().Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return nil, fmt.Errorf("failed to fetch PV %s from API server: %w", name, err)
	case pv.Spec.ClaimRef == nil:
		return nil, fmt.Errorf("found PV object %s but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim", name)
	case pv.Spec.ClaimRef.UID != claim.UID:
		return nil, fmt.Errorf("found PV object %s but its pv.Spec.ClaimRef.UID %s does not point to claim.UID %s", name, pv.Spec.ClaimRef.UID, claim.UID)
	}
	return pv, nil
}

// reachable checks that the volume may be used on this node.
func (f Finder) reachable(pv *v1.PersistentVolume) error {
	if f.Node == nil || pv.Spec.NodeAffinity == nil {
		return nil
	}
	node := f.Node()
	if node == nil {
		return errors.New("the node's own labels are not known yet")
	}
	return volume.CheckNodeAffinity(pv, node.Labels)
}
