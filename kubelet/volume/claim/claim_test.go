package claim

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func claimed(name string, change func(*v1.PersistentVolumeClaim)) *v1.PersistentVolumeClaim {
	c := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: "c-1"},
		Spec: v1.PersistentVolumeClaimSpec{VolumeName: "pv"}, Status: v1.PersistentVolumeClaimStatus{Phase: v1.ClaimBound}}
	if change != nil {
		change(c)
	}
	return c
}

func persistent(change func(*v1.PersistentVolume)) *v1.PersistentVolume {
	p := &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"},
		Spec: v1.PersistentVolumeSpec{ClaimRef: &v1.ObjectReference{Namespace: "ns", Name: "c", UID: "c-1"}}}
	if change != nil {
		change(p)
	}
	return p
}

func TestResolve(t *testing.T) {
	byName := v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: true}}
	generic := v1.VolumeSource{Ephemeral: &v1.EphemeralVolumeSource{}}
	elsewhere := &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchExpressions: []v1.NodeSelectorRequirement{
		{Key: "zone", Operator: v1.NodeSelectorOpIn, Values: []string{"b"}}}}}}}
	for name, tc := range map[string]struct {
		source v1.VolumeSource
		claim  *v1.PersistentVolumeClaim
		pv     *v1.PersistentVolume
		want   string
	}{
		"bound":     {byName, claimed("c", nil), persistent(nil), ""},
		"missing":   {byName, claimed("other", nil), persistent(nil), `error processing PVC ns/c: failed to fetch PVC from API server: persistentvolumeclaims "c" not found`},
		"not bound": {byName, claimed("c", func(c *v1.PersistentVolumeClaim) { c.Status.Phase = v1.ClaimPending }), persistent(nil), "PVC is not bound"},
		"going":     {byName, claimed("c", func(c *v1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr.To(metav1.Now()) }), persistent(nil), "PVC is being deleted"},
		"in use yet": {byName, claimed("c", func(c *v1.PersistentVolumeClaim) {
			c.DeletionTimestamp, c.Finalizers = ptr.To(metav1.Now()), []string{protection}
		}), persistent(nil), ""},
		"other's": {byName, claimed("c", nil), persistent(func(p *v1.PersistentVolume) { p.Spec.ClaimRef.UID = "c-2" }),
			"found PV object pv but its pv.Spec.ClaimRef.UID c-2 does not point to claim.UID c-1"},
		"no ref":    {byName, claimed("c", nil), persistent(func(p *v1.PersistentVolume) { p.Spec.ClaimRef = nil }), "nil pv.Spec.ClaimRef"},
		"elsewhere": {byName, claimed("c", nil), persistent(func(p *v1.PersistentVolume) { p.Spec.NodeAffinity = elsewhere }), `MountVolume.NodeAffinity check failed for volume "pv" : no matching NodeSelectorTerms`},
		"ephemeral": {generic, claimed("p-v", func(c *v1.PersistentVolumeClaim) {
			c.OwnerReferences = []metav1.OwnerReference{{Kind: "Pod", Name: "p", UID: "u", Controller: ptr.To(true)}}
		}), persistent(nil), ""},
		"ephemeral of another": {generic, claimed("p-v", nil), persistent(nil), "PVC ns/p-v was not created for pod ns/p (pod is not owner)"},
	} {
		t.Run(name, func(t *testing.T) {
			f := Finder{Client: fake.NewClientset(tc.claim, tc.pv), Node: func() *v1.Node {
				return &v1.Node{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"zone": "a"}}}
			}}
			pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
			got, err := f.Resolve(t.Context(), pod, &v1.Volume{Name: "v", VolumeSource: tc.source})
			switch {
			case tc.want != "":
				if err == nil || !strings.Contains(err.Error(), tc.want) {
					t.Errorf("got %v, want %q", err, tc.want)
				}
			case err != nil:
				t.Error(err)
			case got.Volume.Name != "pv" || got.ReadOnly != (tc.source.PersistentVolumeClaim != nil):
				t.Errorf("got %+v", got)
			}
		})
	}
}
