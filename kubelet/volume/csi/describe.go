package csi

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/skiff-node/skiff/kubelet/volume"
)

// vol is one volume of one pod, as its driver has to be told about it.
type vol struct {
	Name           string // of the persistent volume, or of the pod's volume when it is inline
	Driver, Handle string
	Inline         bool
	Block          bool
	ReadOnly       bool
	FSType         string
	Options        []string // mount options
	Modes          []v1.PersistentVolumeAccessMode
	Attributes     map[string]string
	StageSecret    *v1.SecretReference
	PublishSecret  *v1.SecretReference
	ExpandSecret   *v1.SecretReference
}

func (v *vol) identity() identity { return identity{v.Driver, v.Handle} }

// describe reads the volume's source.
func describe(req volume.Request) (*vol, error) {
	if req.Claimed != nil {
		return persistent(req.Claimed)
	}
	src := req.Volume.CSI
	if src == nil {
		return nil, errors.New("volume source not found in volume.Spec")
	}
	v := &vol{Name: req.Volume.Name, Driver: src.Driver, Inline: true, Attributes: src.VolumeAttributes,
		Handle: inlineHandle(string(req.Pod.UID), req.Volume.Name), ReadOnly: src.ReadOnly != nil && *src.ReadOnly}
	if src.FSType != nil {
		v.FSType = *src.FSType
	}
	if ref := src.NodePublishSecretRef; ref != nil {
		v.PublishSecret = &v1.SecretReference{Namespace: req.Pod.Namespace, Name: ref.Name}
	}
	return v, nil
}

func persistent(c *volume.Claimed) (*vol, error) {
	src := c.Volume.Spec.CSI
	if src.Driver == "" || src.VolumeHandle == "" {
		return nil, fmt.Errorf("persistent volume %s names no driver or no volumeHandle", c.Volume.Name)
	}
	return &vol{Name: c.Volume.Name, Driver: src.Driver, Handle: src.VolumeHandle, Block: c.Block(), ReadOnly: c.ReadOnly,
		FSType: src.FSType, Options: c.Volume.Spec.MountOptions, Modes: c.Volume.Spec.AccessModes, Attributes: src.VolumeAttributes,
		StageSecret: src.NodeStageSecretRef, PublishSecret: src.NodePublishSecretRef, ExpandSecret: src.NodeExpandSecretRef}, nil
}

// inlineHandle is the handle the kubelet gives an inline volume, the same as upstream's.
func inlineHandle(pod, name string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(pod+name)))
}

// attachmentName is the name of the VolumeAttachment that the cluster makes for a volume on a node.
func attachmentName(v *vol, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(v.Handle+v.Driver+node)))
}

// capability is what the volume is to be, for each call that asks. group is nil unless the driver applies it itself;
// singleNode says that the driver tells single-node modes apart.
func capability(v *vol, group *int64, singleNode bool) *csi.VolumeCapability {
	c := &csi.VolumeCapability{AccessMode: &csi.VolumeCapability_AccessMode{Mode: accessMode(v.Modes, singleNode)}}
	if v.Block {
		c.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		return c
	}
	mount := &csi.VolumeCapability_MountVolume{FsType: v.FSType, MountFlags: v.Options}
	if group != nil {
		mount.VolumeMountGroup = strconv.FormatInt(*group, 10)
	}
	c.AccessType = &csi.VolumeCapability_Mount{Mount: mount}
	return c
}

// accessMode translates the first access mode, which is all that upstream looks at; inline volumes are ReadWriteOnce.
func accessMode(modes []v1.PersistentVolumeAccessMode, singleNode bool) csi.VolumeCapability_AccessMode_Mode {
	mode := v1.ReadWriteOnce
	if len(modes) > 0 {
		mode = modes[0]
	}
	switch mode {
	case v1.ReadOnlyMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_READER_ONLY
	case v1.ReadWriteMany:
		return csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER
	case v1.ReadWriteOncePod:
		if singleNode {
			return csi.VolumeCapability_AccessMode_SINGLE_NODE_SINGLE_WRITER
		}
	case v1.ReadWriteOnce:
		if singleNode {
			return csi.VolumeCapability_AccessMode_SINGLE_NODE_MULTI_WRITER
		}
	}
	return csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER
}

// wishes are what a CSIDriver object says; a driver without one has the defaults.
type wishes struct {
	Attach, PodInfo, Republish, TokensInSecrets bool
	Label                                       bool // volumes can be mounted with an SELinux label
	GroupPolicy                                 storagev1.FSGroupPolicy
	Modes                                       []storagev1.VolumeLifecycleMode // nil without an object
	Tokens                                      []storagev1.TokenRequest
}

func wishesOf(d *storagev1.CSIDriver) wishes {
	w := wishes{Attach: true, GroupPolicy: storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy}
	if d == nil {
		return w
	}
	is := func(b *bool) bool { return b != nil && *b }
	w.Attach = d.Spec.AttachRequired == nil || *d.Spec.AttachRequired
	w.PodInfo, w.Republish, w.TokensInSecrets = is(d.Spec.PodInfoOnMount), is(d.Spec.RequiresRepublish), is(d.Spec.ServiceAccountTokenInSecrets)
	w.Tokens, w.Label = d.Spec.TokenRequests, is(d.Spec.SELinuxMount)
	if d.Spec.FSGroupPolicy != nil && *d.Spec.FSGroupPolicy != "" {
		w.GroupPolicy = *d.Spec.FSGroupPolicy
	}
	w.Modes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	if len(d.Spec.VolumeLifecycleModes) > 0 {
		w.Modes = d.Spec.VolumeLifecycleModes
	}
	return w
}

// supports refuses a volume of a sort that the driver is not made for.
func (w wishes) supports(v *vol) error {
	mode := storagev1.VolumeLifecyclePersistent
	if v.Inline {
		mode = storagev1.VolumeLifecycleEphemeral
	}
	if w.Modes == nil && v.Inline {
		return fmt.Errorf("volume mode %q not supported by driver %s (no CSIDriver object)", mode, v.Driver)
	}
	if w.Modes != nil && !slices.Contains(w.Modes, mode) {
		return fmt.Errorf("volume mode %q not supported by driver %s (only supports %q)", mode, v.Driver, w.Modes)
	}
	return nil
}

// owns reports whether the kubelet gives the volume's files to the pod's group.
func (w wishes) owns(v *vol) bool {
	switch {
	case v.ReadOnly || v.Block || w.GroupPolicy == storagev1.NoneFSGroupPolicy:
		return false
	case w.GroupPolicy == storagev1.FileFSGroupPolicy:
		return true
	case v.FSType == "":
		return false
	}
	return v.Inline || slices.Contains(v.Modes, v1.ReadWriteOnce) || slices.Contains(v.Modes, v1.ReadWriteOncePod)
}

// context is the volume_context of NodePublishVolume: the volume's attributes, and the pod's for drivers that want it.
func (w wishes) context(v *vol, pod *v1.Pod) map[string]string {
	all := maps.Clone(v.Attributes)
	if !w.PodInfo {
		return all
	}
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, map[string]string{
		"csi.storage.k8s.io/pod.name":            pod.Name,
		"csi.storage.k8s.io/pod.namespace":       pod.Namespace,
		"csi.storage.k8s.io/pod.uid":             string(pod.UID),
		"csi.storage.k8s.io/serviceAccount.name": pod.Spec.ServiceAccountName,
		"csi.storage.k8s.io/ephemeral":           strconv.FormatBool(v.Inline),
	})
	return all
}
