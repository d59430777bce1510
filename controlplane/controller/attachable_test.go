package controller

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func persistent(s v1.PersistentVolumeSource) *v1.PersistentVolume {
	return &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: v1.PersistentVolumeSpec{PersistentVolumeSource: s}}
}

func withVolume(s v1.VolumeSource) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: v1.PodSpec{Volumes: []v1.Volume{{Name: "v", VolumeSource: s}}}}
}

func nodeWith(s v1.NodeStatus) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: s}
}

// TestFirstAttachable: the controller begins with the first volume that can be attached, whether it was there before or comes, and not
// before.
func TestFirstAttachable(t *testing.T) {
	for name, c := range map[string]struct {
		object runtime.Object
		want   bool
	}{
		"a directory of the node":   {persistent(v1.PersistentVolumeSource{HostPath: &v1.HostPathVolumeSource{}}), false},
		"a local volume":            {persistent(v1.PersistentVolumeSource{Local: &v1.LocalVolumeSource{}}), false},
		"a share of the network":    {persistent(v1.PersistentVolumeSource{NFS: &v1.NFSVolumeSource{}}), false},
		"of a driver":               {persistent(v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{}}), true},
		"of a former in-tree kind":  {persistent(v1.PersistentVolumeSource{AzureDisk: &v1.AzureDiskVolumeSource{}}), true},
		"a pod with a claim":        {withVolume(v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}), false},
		"a pod with an inline one":  {withVolume(v1.VolumeSource{CSI: &v1.CSIVolumeSource{}}), false}, // the node asks the driver itself
		"a pod with a target":       {withVolume(v1.VolumeSource{ISCSI: &v1.ISCSIVolumeSource{}}), true},
		"a pod with a former kind":  {withVolume(v1.VolumeSource{Cinder: &v1.CinderVolumeSource{}}), true},
		"a node":                    {nodeWith(v1.NodeStatus{}), false},
		"a node that uses some":     {nodeWith(v1.NodeStatus{VolumesInUse: []v1.UniqueVolumeName{"v"}}), true},
		"a node that has some":      {nodeWith(v1.NodeStatus{VolumesAttached: []v1.AttachedVolume{{Name: "v"}}}), true},
		"an attachment of whomever": {&storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, true},
	} {
		for _, late := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				client := fake.NewClientset()
				add := func() {
					if err := client.Tracker().Add(c.object); err != nil {
						t.Fatal(err)
					}
				}
				if !late {
					add()
				}
				f := informers.NewSharedInformerFactory(client, 0)
				wait, err := firstAttachable(&env{Config: Config{Informers: f}})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				f.StartWithContext(ctx)
				got := make(chan bool, 1)
				go func() { got <- wait(ctx) }()
				time.Sleep(time.Minute)
				if late {
					if len(got) != 0 {
						t.Errorf("%s: begun without it", name)
					}
					add()
					time.Sleep(time.Minute)
				}
				if begun := len(got) == 1; begun != c.want {
					t.Errorf("%s: begun %v, want %v", name, begun, c.want)
				}
				cancel()
				if begun := <-got; begun != c.want {
					t.Errorf("%s: in the end %v", name, begun)
				}
				f.Shutdown()
			})
		}
	}
}
