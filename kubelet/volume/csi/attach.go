package csi

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// attachTime is how long one Setup waits for the cluster to attach a volume, as upstream's wait for mounts.
const attachTime = 2*time.Minute + 3*time.Second

// Pauses between looks at a VolumeAttachment. The Node authorizer lets a kubelet get those of its node but not watch them.
const firstLook, lastLook = 20 * time.Millisecond, time.Second

// attachable refuses what nobody will attach.
func attachable(s *setup) error {
	if s.cfg.NoAttach && !s.vol.Inline && s.wish.Attach {
		return errors.New("attaching volumes from the kubelet is not supported")
	}
	return nil
}

// attached waits until the volume is attached to the node, for a driver that needs it, and keeps what the driver's
// controller said about it.
func (s *setup) attached(ctx context.Context) error {
	if s.vol.Inline || !s.wish.Attach {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	name := attachmentName(s.vol, s.cfg.Node)
	for pause := firstLook; ; pause = min(pause*3/2, lastLook) {
		a, err := s.cfg.Client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
		done, why := verdict(a, err)
		if done {
			s.attach = a.Status.AttachmentMetadata
			return nil
		}
		if why != nil && !errors.Is(why, errNotYet) {
			return fmt.Errorf("volume %s has GET error for volume attachment %s: %w", s.vol.Handle, name, why)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("timed out waiting for external-attacher of %s CSI driver to attach volume %s", s.vol.Driver, s.vol.Handle)
		case <-time.After(pause):
		}
	}
}

// reported waits until the cluster will not detach the volume, for a driver whose volumes are attached.
func (s *setup) reported(ctx context.Context) error {
	if s.vol.Inline || !s.wish.Attach {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, attachTime)
	defer cancel()
	for {
		err := s.cfg.Reported(s.vol.identity().unique())
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("volume %s %w", s.vol.Handle, err)
		case <-time.After(firstLook):
		}
	}
}

// Safe returns nil if the volume will not be detached from the node that has this status, or why it still may be. Who detaches
// takes it out of volumesAttached first, and then gives up if it finds it in volumesInUse. So whoever finds it in both, in one
// version of the status, has won.
func Safe(node *v1.NodeStatus, volume v1.UniqueVolumeName) error {
	if !slices.Contains(node.VolumesInUse, volume) {
		return errors.New("has not yet been added to the list of VolumesInUse in the node's volume status")
	}
	if !slices.ContainsFunc(node.VolumesAttached, func(a v1.AttachedVolume) bool { return a.Name == volume }) {
		return errors.New("is not attached according to node status")
	}
	return nil
}

var errNotYet = errors.New("not attached yet")

// verdict tells from the answer about a VolumeAttachment whether the volume is attached, may yet be (errNotYet), or why it
// will not be. One that does not exist yet is forbidden to a node.
func verdict(a *storagev1.VolumeAttachment, err error) (done bool, why error) {
	switch {
	case apierrors.IsNotFound(err), apierrors.IsForbidden(err):
		return false, errNotYet
	case err != nil:
		return false, err
	case a.DeletionTimestamp != nil:
		return false, errors.New("volume attachment is being deleted")
	case a.Status.Attached:
		return true, nil
	case a.Status.AttachError != nil:
		return false, errors.New(a.Status.AttachError.Message)
	}
	return false, errNotYet
}
