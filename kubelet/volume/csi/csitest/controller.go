package csitest

import (
	"context"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// CreateVolume implements the controller service. The volume's id is its name.
func (d controller) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	size := r.CapacityRange.GetRequiredBytes()
	if err := d.Provision(r.Name, size); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: r.Name, CapacityBytes: size}}, nil
}

// DeleteVolume implements the controller service.
func (d controller) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if v := d.volumes[r.VolumeId]; v != nil && (v.Staged != "" || len(v.Published) > 0) {
		return nil, d.refuse(status.Errorf(codes.FailedPrecondition, "%s is in use", r.VolumeId))
	}
	delete(d.volumes, r.VolumeId)
	return &csi.DeleteVolumeResponse{}, nil
}

// ControllerPublishVolume implements the controller service.
func (d controller) ControllerPublishVolume(_ context.Context, r *csi.ControllerPublishVolumeRequest) (*csi.ControllerPublishVolumeResponse, error) {
	context, err := d.Attach(r.VolumeId, r.NodeId)
	return &csi.ControllerPublishVolumeResponse{PublishContext: context}, err
}

// ControllerUnpublishVolume implements the controller service: it detaches, but not what the node still has.
func (d controller) ControllerUnpublishVolume(_ context.Context, r *csi.ControllerUnpublishVolumeRequest) (*csi.ControllerUnpublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.volumes[r.VolumeId]
	if v != nil && (v.Staged != "" || len(v.Published) > 0) {
		return nil, d.refuse(status.Errorf(codes.FailedPrecondition, "%s is in use on the node", r.VolumeId))
	}
	if v != nil {
		v.Attached = ""
	}
	return &csi.ControllerUnpublishVolumeResponse{}, nil
}

// Attach attaches a volume to a node and returns what the node has to be told about it.
func (d *Driver) Attach(id, node string) (map[string]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.volumes[id]
	if v == nil {
		return nil, status.Error(codes.NotFound, errNoVolume.Error())
	}
	v.Attached = node
	return map[string]string{"device": "dev-" + id}, nil
}
