package claim

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

// TestMigrated: each type of volume that a driver has taken over is that driver's, behind a claim and in a pod.
func TestMigrated(t *testing.T) {
	for _, tc := range []struct {
		inline         v1.VolumeSource
		behind         v1.PersistentVolumeSource
		driver, handle string
	}{
		{v1.VolumeSource{AWSElasticBlockStore: &v1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1", FSType: "ext4"}},
			v1.PersistentVolumeSource{AWSElasticBlockStore: &v1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1", FSType: "ext4"}}, "ebs.csi.aws.com", "vol-1"},
		{v1.VolumeSource{GCEPersistentDisk: &v1.GCEPersistentDiskVolumeSource{PDName: "disk"}},
			v1.PersistentVolumeSource{GCEPersistentDisk: &v1.GCEPersistentDiskVolumeSource{PDName: "disk"}}, "pd.csi.storage.gke.io", "projects/UNSPECIFIED/zones/UNSPECIFIED/disks/disk"},
		{v1.VolumeSource{AzureDisk: &v1.AzureDiskVolumeSource{DiskName: "d", DataDiskURI: "/sub/disks/d"}},
			v1.PersistentVolumeSource{AzureDisk: &v1.AzureDiskVolumeSource{DiskName: "d", DataDiskURI: "/sub/disks/d"}}, "disk.csi.azure.com", "/sub/disks/d"},
		{v1.VolumeSource{Cinder: &v1.CinderVolumeSource{VolumeID: "c"}},
			v1.PersistentVolumeSource{Cinder: &v1.CinderPersistentVolumeSource{VolumeID: "c"}}, "cinder.csi.openstack.org", "c"},
		{v1.VolumeSource{VsphereVolume: &v1.VsphereVirtualDiskVolumeSource{VolumePath: "[ds] ../x.vmdk"}},
			v1.PersistentVolumeSource{VsphereVolume: &v1.VsphereVirtualDiskVolumeSource{VolumePath: "[ds] ../x.vmdk"}}, "csi.vsphere.vmware.com", "[ds] ../x.vmdk"},
	} {
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
		stored := persistent(func(p *v1.PersistentVolume) { p.Spec.PersistentVolumeSource = tc.behind })
		f := Finder{Client: fake.NewClientset(claimed("c", nil), stored)}
		if !f.Migrates(&tc.inline) {
			t.Errorf("%s: stays", tc.driver)
		}
		byClaim := v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c"}}
		for name, source := range map[string]v1.VolumeSource{"pv": byClaim, "v": tc.inline} {
			got, err := f.Resolve(t.Context(), pod, &v1.Volume{Name: "v", VolumeSource: source})
			if err != nil {
				t.Errorf("%s: %v", tc.driver, err)
				continue
			}
			csi := got.Volume.Spec.CSI
			if csi == nil || csi.Driver != tc.driver || csi.VolumeHandle != tc.handle || got.Volume.Name != name || (got.Claim != nil) != (name == "pv") || got.Block() {
				t.Errorf("%s, %s: %+v", tc.driver, name, got.Volume)
			}
		}
	}
	for _, src := range []v1.VolumeSource{{EmptyDir: &v1.EmptyDirVolumeSource{}}, {NFS: &v1.NFSVolumeSource{}}, {CSI: &v1.CSIVolumeSource{}}} {
		if Migrated(&src) {
			t.Errorf("%+v", src)
		}
	}
}
