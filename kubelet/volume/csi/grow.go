package csi

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// growing reports whether the persistent volume is larger than its claim says: the cluster's part of growing is done, and
// the node's is not.
func (s *setup) growing() bool {
	c := s.req.Claimed
	if c == nil || c.Claim == nil || s.vol.ReadOnly {
		return false
	}
	if st := c.Claim.Status.AllocatedResourceStatuses[v1.ResourceStorage]; st == v1.PersistentVolumeClaimNodeResizeInfeasible {
		return false // until someone asks for another size
	}
	is, was := c.Volume.Spec.Capacity[v1.ResourceStorage], c.Claim.Status.Capacity[v1.ResourceStorage]
	return !was.IsZero() && is.Cmp(was) > 0
}

// growth is what makes a volume larger while a pod has it.
type growth struct{ *setup }

// grow lets the driver make the volume on the node as large as the persistent volume is, and tells the claim.
func (s growth) grow(ctx context.Context) error {
	if !s.growing() || !s.can.expand {
		return nil
	}
	size := s.req.Claimed.Volume.Spec.Capacity[v1.ResourceStorage]
	if err := s.tell(ctx, inProgress); err != nil {
		return err
	}
	secrets, err := s.secret(ctx, "NodeExpandSecretRef", s.vol.ExpandSecret)
	if err != nil {
		return err
	}
	req := &csi.NodeExpandVolumeRequest{VolumeId: s.vol.Handle, VolumePath: s.target(), Secrets: secrets,
		CapacityRange: &csi.CapacityRange{RequiredBytes: size.Value()}, VolumeCapability: capability(s.vol, nil, s.can.singleNode)}
	if s.can.stage {
		req.StagingTargetPath, _ = s.journal.staging(&s.entry)
	}
	err = s.driver.call(ctx, func(ctx context.Context) error {
		_, err := s.driver.node.NodeExpandVolume(ctx, req)
		return err
	})
	if err != nil {
		return s.failed(ctx, err)
	}
	if err := s.tell(ctx, finished(size)); err != nil {
		return err
	}
	if s.cfg.Events != nil {
		s.cfg.Events.Normal(s.req.Pod, "", "FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume %q", s.vol.Name)
	}
	return nil
}

// failed tells of a failure. The pod has its volume as it was, so that is no reason not to start: unless the volume cannot
// ever grow so far, it is tried again on the next beat.
func (s growth) failed(ctx context.Context, why error) error {
	if s.cfg.Events != nil {
		s.cfg.Events.Warning(s.req.Pod, "", "VolumeResizeFailed", "NodeExpandVolume.NodeExpandVolume failed for volume %q : %v", s.vol.Name, why)
	}
	switch status.Code(why) {
	case codes.InvalidArgument, codes.OutOfRange, codes.NotFound:
		return s.tell(ctx, infeasible(why))
	}
	return nil
}

// tell changes the claim's status.
func (s growth) tell(ctx context.Context, change func(*v1.PersistentVolumeClaimStatus)) error {
	old := s.req.Claimed.Claim
	claim := old.DeepCopy()
	change(&claim.Status)
	before, err := json.Marshal(old)
	if err != nil {
		return err
	}
	after, err := json.Marshal(claim)
	if err != nil {
		return err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, claim)
	if err != nil || string(patch) == "{}" {
		return err
	}
	claim, err = s.cfg.Client.CoreV1().PersistentVolumeClaims(old.Namespace).
		Patch(ctx, old.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("write the status of PVC %s/%s: %w", old.Namespace, old.Name, err)
	}
	s.req.Claimed.Claim = claim
	return nil
}

func inProgress(st *v1.PersistentVolumeClaimStatus) {
	setResizeStatus(st, v1.PersistentVolumeClaimNodeResizeInProgress)
}

func finished(size resource.Quantity) func(*v1.PersistentVolumeClaimStatus) {
	return func(st *v1.PersistentVolumeClaimStatus) {
		st.Capacity[v1.ResourceStorage] = size
		delete(st.AllocatedResourceStatuses, v1.ResourceStorage)
		st.Conditions = withoutResize(st.Conditions)
	}
}

func infeasible(why error) func(*v1.PersistentVolumeClaimStatus) {
	return func(st *v1.PersistentVolumeClaimStatus) {
		setResizeStatus(st, v1.PersistentVolumeClaimNodeResizeInfeasible)
		st.Conditions = append(withoutResize(st.Conditions), v1.PersistentVolumeClaimCondition{Type: v1.PersistentVolumeClaimNodeResizeError,
			Status: v1.ConditionTrue, LastTransitionTime: metav1.Now(), Message: fmt.Sprintf("failed to expand pvc with %v", why)})
	}
}

func setResizeStatus(st *v1.PersistentVolumeClaimStatus, to v1.ClaimResourceStatus) {
	if st.AllocatedResourceStatuses == nil {
		st.AllocatedResourceStatuses = map[v1.ResourceName]v1.ClaimResourceStatus{}
	}
	st.AllocatedResourceStatuses[v1.ResourceStorage] = to
}

// withoutResize drops the conditions that tell of growing.
func withoutResize(all []v1.PersistentVolumeClaimCondition) []v1.PersistentVolumeClaimCondition {
	var rest []v1.PersistentVolumeClaimCondition
	for _, c := range all {
		switch c.Type {
		case v1.PersistentVolumeClaimFileSystemResizePending, v1.PersistentVolumeClaimResizing,
			v1.PersistentVolumeClaimControllerResizeError, v1.PersistentVolumeClaimNodeResizeError:
		default:
			rest = append(rest, c)
		}
	}
	return rest
}
