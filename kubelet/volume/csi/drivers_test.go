package csi_test

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/volume/csi/csitest"
)

func (w *world) csiNode() *storagev1.CSINode {
	w.t.Helper()
	n, err := w.client.StorageV1().CSINodes().Get(w.t.Context(), "node", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func (w *world) node() *v1.Node {
	w.t.Helper()
	n, err := w.client.CoreV1().Nodes().Get(w.t.Context(), "node", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestTheAPIKnowsTheDriversOfTheNode(t *testing.T) {
	former := &storagev1.CSINode{ObjectMeta: metav1.ObjectMeta{Name: "node", OwnerReferences: []metav1.OwnerReference{{Kind: "Node", Name: "node", UID: "former"}}},
		Spec: storagev1.CSINodeSpec{Drivers: []storagev1.CSINodeDriver{{Name: "former", NodeID: "x"}}}}
	w := newWorld(t, csitest.Options{NodeID: "n-1", MaxVolumes: 3, Topology: map[string]string{"example.org/rack": "r1"}}, former)
	got := w.csiNode()
	if len(got.OwnerReferences) != 1 || got.OwnerReferences[0].UID != types.UID("node-uid") || !strings.Contains(got.Annotations[v1.MigratedPluginsAnnotationKey], "kubernetes.io/aws-ebs") {
		t.Errorf("%+v", got.ObjectMeta)
	}
	d := got.Spec.Drivers
	if len(d) != 1 || d[0].Name != driverName || d[0].NodeID != "n-1" || d[0].TopologyKeys[0] != "example.org/rack" || *d[0].Allocatable.Count != 3 {
		t.Errorf("drivers %+v", d)
	}
	if n := w.node(); n.Labels["example.org/rack"] != "r1" || n.Annotations["csi.volume.kubernetes.io/nodeid"] != `{"disk.example.org":"n-1"}` {
		t.Errorf("labels %v, annotations %v", n.Labels, n.Annotations)
	}
	w.drivers.Unregister(driverName, "/another/socket") // a former one of the same name
	if len(w.csiNode().Spec.Drivers) != 1 {
		t.Error("unregistered by the socket of another")
	}
	w.drivers.Unregister(driverName, w.socket())
	if len(w.csiNode().Spec.Drivers) != 0 || w.node().Annotations["csi.volume.kubernetes.io/nodeid"] != "" {
		t.Errorf("still there: %+v %v", w.csiNode().Spec, w.node().Annotations)
	}
}

func TestRegistrationsThatAreRefused(t *testing.T) {
	w := newWorld(t, csitest.Options{Topology: map[string]string{"example.org/rack": "r1"}})
	if err := w.drivers.Register(t.Context(), "old", w.socket(), []string{"0.3.0"}); err == nil || !strings.Contains(err.Error(), `None of the versions specified ["0.3.0"] are supported`) {
		t.Errorf("a driver of CSI 0.3: %v", err)
	}
	n := w.node()
	n.Labels["example.org/rack"] = "r2"
	if _, err := w.client.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.drivers.Register(t.Context(), driverName, w.socket(), []string{"1.0.0"}); err == nil || !strings.Contains(err.Error(), "detected topology value collision") {
		t.Errorf("a driver that thinks the node is elsewhere: %v", err)
	}
}
