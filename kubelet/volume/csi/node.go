package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
)

// nodeIDs is the annotation of the Node that holds each driver's id of it, as JSON.
const nodeIDs = "csi.volume.kubernetes.io/nodeid"

// migrated are the volume types of clouds that all nodes of this version reach by CSI drivers; the scheduler and the
// controllers look for them.
const migrated = "kubernetes.io/aws-ebs,kubernetes.io/azure-disk,kubernetes.io/azure-file,kubernetes.io/cinder," +
	"kubernetes.io/gce-pd,kubernetes.io/portworx-volume,kubernetes.io/vsphere-volume"

// nodeInfo keeps what the API knows of this node's drivers: the CSINode object, and on the Node the drivers' ids of it and
// its place in their topology.
type nodeInfo struct {
	client kubernetes.Interface
	name   string
	mu     sync.Mutex // one change at a time
}

// ensure makes the CSINode object, which belongs to the Node and goes with it.
func (n *nodeInfo) ensure(ctx context.Context) error {
	return n.change(ctx, func(*storagev1.CSINodeSpec) {})
}

// install writes what a driver says of this node.
func (n *nodeInfo) install(ctx context.Context, driver string, info *csi.NodeGetInfoResponse) error {
	topology := info.GetAccessibleTopology().GetSegments()
	if err := n.annotate(ctx, driver, info.NodeId, topology); err != nil {
		return fmt.Errorf("error updating Node object with CSI driver node info: %w", err)
	}
	entry := storagev1.CSINodeDriver{Name: driver, NodeID: info.NodeId, TopologyKeys: slices.Sorted(maps.Keys(topology))}
	if most := info.MaxVolumesPerNode; most > 0 {
		count := int32(min(most, math.MaxInt32))
		entry.Allocatable = &storagev1.VolumeNodeResources{Count: &count}
	}
	err := n.change(ctx, func(spec *storagev1.CSINodeSpec) {
		spec.Drivers = append(without(spec.Drivers, driver), entry)
	})
	if err != nil {
		return fmt.Errorf("error updating CSINode object with CSI driver node info: %w", err)
	}
	return nil
}

// uninstall takes a driver that has gone off both objects.
func (n *nodeInfo) uninstall(ctx context.Context, driver string) error {
	err := n.change(ctx, func(spec *storagev1.CSINodeSpec) { spec.Drivers = without(spec.Drivers, driver) })
	return errors.Join(err, n.annotate(ctx, driver, "", nil))
}

func without(list []storagev1.CSINodeDriver, name string) []storagev1.CSINodeDriver {
	return slices.DeleteFunc(slices.Clone(list), func(d storagev1.CSINodeDriver) bool { return d.Name == name })
}

// change makes the CSINode what edit says; one that belongs to a former Node of this name is made anew.
func (n *nodeInfo) change(ctx context.Context, edit func(*storagev1.CSINodeSpec)) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	api := n.client.StorageV1().CSINodes()
	return retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		node, err := n.client.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		have, err := api.Get(ctx, n.name, metav1.GetOptions{})
		if err == nil && !slices.ContainsFunc(have.OwnerReferences, func(o metav1.OwnerReference) bool { return o.UID == node.UID }) {
			if err := api.Delete(ctx, n.name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("delete the CSINode of a former Node: %w", err)
			}
			return n.create(ctx, node, edit)
		}
		if apierrors.IsNotFound(err) {
			return n.create(ctx, node, edit)
		}
		if err != nil {
			return err
		}
		want := have.DeepCopy()
		metav1.SetMetaDataAnnotation(&want.ObjectMeta, v1.MigratedPluginsAnnotationKey, migrated)
		edit(&want.Spec)
		if same(have, want) {
			return nil
		}
		_, err = api.Update(ctx, want, metav1.UpdateOptions{})
		return err
	})
}

func (n *nodeInfo) create(ctx context.Context, node *v1.Node, edit func(*storagev1.CSINodeSpec)) error {
	c := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: n.name, Annotations: map[string]string{v1.MigratedPluginsAnnotationKey: migrated},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}}}
	edit(&c.Spec)
	_, err := n.client.StorageV1().CSINodes().Create(ctx, c, metav1.CreateOptions{})
	return err
}

// same compares two versions, whatever the order of the drivers.
func same(a, b *storagev1.CSINode) bool {
	key := func(n *storagev1.CSINode) string {
		list := slices.Clone(n.Spec.Drivers)
		slices.SortFunc(list, func(x, y storagev1.CSINodeDriver) int { return strings.Compare(x.Name, y.Name) })
		raw, err := json.Marshal([]any{n.Annotations[v1.MigratedPluginsAnnotationKey], list})
		if err != nil {
			return ""
		}
		return string(raw)
	}
	return key(a) == key(b)
}

// annotate notes the driver's id of the node, or with an empty id takes it off, and the node's place in its topology.
func (n *nodeInfo) annotate(ctx context.Context, driver, id string, topology map[string]string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	node, err := n.client.CoreV1().Nodes().Get(ctx, n.name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for key, value := range topology {
		if is, ok := node.Labels[key]; ok && is != value {
			return fmt.Errorf("detected topology value collision: driver reported %q:%q but existing label is %q:%q", key, value, key, is)
		}
	}
	ids := map[string]string{}
	if raw := node.Annotations[nodeIDs]; raw != "" {
		if err := json.Unmarshal([]byte(raw), &ids); err != nil {
			return fmt.Errorf("failed to parse node's %q annotation value (%q): %w", nodeIDs, raw, err)
		}
	}
	patch, err := nodePatch(node, driver, id, ids, topology)
	if err != nil || patch == nil {
		return err
	}
	_, err = n.client.CoreV1().Nodes().Patch(ctx, n.name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	return err
}

// nodePatch is what has to change on the Node; nil for nothing.
func nodePatch(node *v1.Node, driver, id string, ids, topology map[string]string) ([]byte, error) {
	meta := map[string]any{}
	if ids[driver] != id {
		ids[driver] = id
		if id == "" {
			delete(ids, driver)
		}
		raw, err := json.Marshal(ids)
		if err != nil {
			return nil, err
		}
		meta["annotations"] = map[string]any{nodeIDs: string(raw)}
		if len(ids) == 0 {
			meta["annotations"] = map[string]any{nodeIDs: nil}
		}
	}
	labels := map[string]string{}
	for key, value := range topology {
		if node.Labels[key] != value {
			labels[key] = value
		}
	}
	if len(labels) > 0 {
		meta["labels"] = labels
	}
	if len(meta) == 0 {
		return nil, nil
	}
	return json.Marshal(map[string]any{"metadata": meta})
}
