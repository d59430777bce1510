package csitest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// identity, node and controller are the driver's services.
type (
	identity struct {
		csi.UnimplementedIdentityServer
		*Driver
	}
	node struct {
		csi.UnimplementedNodeServer
		*Driver
	}
	controller struct {
		csi.UnimplementedControllerServer
		*Driver
	}
)

// GetPluginInfo implements the identity service.
func (d identity) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: d.opts.Name, VendorVersion: "1"}, nil
}

// NodeGetInfo implements the node service.
func (d node) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	info := &csi.NodeGetInfoResponse{NodeId: d.opts.NodeID, MaxVolumesPerNode: d.opts.MaxVolumes}
	if d.opts.Topology != nil {
		info.AccessibleTopology = &csi.Topology{Segments: d.opts.Topology}
	}
	return info, nil
}

// NodeGetCapabilities implements the node service.
func (d node) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	resp := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range d.opts.Node {
		resp.Capabilities = append(resp.Capabilities, &csi.NodeServiceCapability{
			Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}}})
	}
	return resp, nil
}

func (d node) can(c csi.NodeServiceCapability_RPC_Type) bool {
	return slices.Contains(d.opts.Node, c)
}

// NodeStageVolume implements the node service.
func (d node) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.volumes[r.VolumeId]
	switch {
	case v == nil:
		return nil, status.Error(codes.NotFound, errNoVolume.Error())
	case !d.can(csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME):
		return nil, d.refuse(status.Error(codes.Unimplemented, "this driver does not stage"))
	case v.Staged == r.StagingTargetPath:
		return &csi.NodeStageVolumeResponse{}, nil
	case v.Staged != "":
		return nil, d.refuse(status.Errorf(codes.FailedPrecondition, "%s is staged at %s, not at %s", r.VolumeId, v.Staged, r.StagingTargetPath))
	}
	if err := d.attached(v, r.VolumeId, r.PublishContext); err != nil {
		return nil, err
	}
	if d.opts.Dir != "" && r.VolumeCapability.GetBlock() == nil {
		if err := mount(d.data(r.VolumeId), r.StagingTargetPath, false); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	v.Staged = r.StagingTargetPath
	return &csi.NodeStageVolumeResponse{}, nil
}

// attached checks that the volume is attached to this node and that the caller knows what the controller said.
func (d node) attached(v *Volume, id string, context map[string]string) error {
	if !d.opts.Attach || v.Ephemeral {
		return nil
	}
	if v.Attached != d.opts.NodeID || context["device"] != "dev-"+id {
		return d.refuse(status.Errorf(codes.FailedPrecondition, "%s is not attached, or its publish_context is missing: %v", id, context))
	}
	return nil
}

// NodePublishVolume implements the node service.
func (d node) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.volumes[r.VolumeId]
	if v == nil && r.VolumeContext["csi.storage.k8s.io/ephemeral"] == "true" {
		v = &Volume{Ephemeral: true, Published: map[string]Publication{}}
		d.volumes[r.VolumeId] = v
	}
	if v == nil {
		return nil, status.Error(codes.NotFound, errNoVolume.Error())
	}
	if err := d.mayPublish(v, r); err != nil {
		return nil, err
	}
	p := Publication{ReadOnly: r.Readonly, Block: r.VolumeCapability.GetBlock() != nil, Context: r.VolumeContext, Secrets: r.Secrets, Capability: r.VolumeCapability}
	if _, already := v.Published[r.TargetPath]; !already {
		if err := d.show(v, r, p); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	v.Published[r.TargetPath] = p
	return &csi.NodePublishVolumeResponse{}, nil
}

func (d node) mayPublish(v *Volume, r *csi.NodePublishVolumeRequest) error {
	if err := d.attached(v, r.VolumeId, r.PublishContext); err != nil {
		return err
	}
	stages := d.can(csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME) && !v.Ephemeral
	if stages && (v.Staged == "" || v.Staged != r.StagingTargetPath) {
		return d.refuse(status.Errorf(codes.FailedPrecondition, "%s is staged at %q, not at %q", r.VolumeId, v.Staged, r.StagingTargetPath))
	}
	_, already := v.Published[r.TargetPath]
	one := r.VolumeCapability.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
	if one && !already && len(v.Published) > 0 {
		return d.refuse(status.Errorf(codes.FailedPrecondition, "%s may have one writer only", r.VolumeId))
	}
	return nil
}

// show makes the volume visible at the target.
func (d node) show(v *Volume, r *csi.NodePublishVolumeRequest, p Publication) error {
	if d.opts.Dir == "" || p.Block {
		return os.MkdirAll(r.TargetPath, 0o750)
	}
	from := v.Staged
	if from == "" {
		from = d.data(r.VolumeId)
		if err := os.MkdirAll(from, 0o755); err != nil {
			return err
		}
	}
	return mount(from, r.TargetPath, p.ReadOnly)
}

// NodeUnpublishVolume implements the node service.
func (d node) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.hide(r.TargetPath); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	if v := d.volumes[r.VolumeId]; v != nil {
		delete(v.Published, r.TargetPath)
		if v.Ephemeral && len(v.Published) == 0 {
			delete(d.volumes, r.VolumeId)
		}
	}
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// NodeUnstageVolume implements the node service.
func (d node) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.volumes[r.VolumeId]
	if v != nil && len(v.Published) > 0 {
		return nil, d.refuse(status.Errorf(codes.FailedPrecondition, "%s is still published", r.VolumeId))
	}
	if d.opts.Dir != "" {
		if err := unmount(r.StagingTargetPath); err != nil {
			return nil, status.Error(codes.Internal, err.Error())
		}
	}
	if v != nil {
		v.Staged = ""
	}
	return &csi.NodeUnstageVolumeResponse{}, nil
}

// published is the volume if it is published at the path; that code says that it is not. The mutex is held.
func (d node) published(id, path string, missing codes.Code) (*Volume, error) {
	v := d.volumes[id]
	if v == nil {
		return nil, status.Error(codes.NotFound, errNoVolume.Error())
	}
	if _, ok := v.Published[path]; !ok {
		return nil, d.refuse(status.Errorf(missing, "%s is not published at %s", id, path))
	}
	return v, nil
}

// NodeExpandVolume implements the node service.
func (d node) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.published(r.VolumeId, r.VolumePath, codes.FailedPrecondition)
	if err != nil {
		return nil, err
	}
	v.Size = r.CapacityRange.GetRequiredBytes()
	return &csi.NodeExpandVolumeResponse{CapacityBytes: v.Size}, nil
}

// NodeGetVolumeStats implements the node service: half of the volume is used.
func (d node) NodeGetVolumeStats(_ context.Context, r *csi.NodeGetVolumeStatsRequest) (*csi.NodeGetVolumeStatsResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, err := d.published(r.VolumeId, r.VolumePath, codes.NotFound)
	if err != nil {
		return nil, err
	}
	return &csi.NodeGetVolumeStatsResponse{Usage: []*csi.VolumeUsage{
		{Unit: csi.VolumeUsage_BYTES, Total: v.Size, Used: v.Size / 2, Available: v.Size - v.Size/2},
		{Unit: csi.VolumeUsage_INODES, Total: 100, Used: 1, Available: 99},
	}}, nil
}

func mount(from, to string, readOnly bool) error {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", from, to, err)
	}
	if !readOnly {
		return nil
	}
	return unix.Mount("", to, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
}

// unmount takes all mounts off a path; one where nothing is mounted is no error.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// hide takes a publication away, with the directory it was at, as CSI asks.
func (d node) hide(target string) error {
	if d.opts.Dir != "" {
		if err := unmount(target); err != nil {
			return err
		}
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
