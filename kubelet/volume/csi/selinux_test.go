package csi_test

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-node/skiff/kubelet/volume/csi/csitest"
)

// levels is a machine with SELinux, whose labels are levels only.
type levels struct{}

func (levels) Enabled() bool                             { return true }
func (levels) File(o *v1.SELinuxOptions) (string, error) { return "label:" + o.Level, nil }

// TestLabel mounts a volume with the label of its pod, for a driver that can, and refuses it to a pod with another label for as
// long as the first one has it.
func TestLabel(t *testing.T) {
	driver := object(func(s *storagev1.CSIDriverSpec) { s.SELinuxMount = ptr.To(true) })
	w := newWorld(t, csitest.Options{Node: stages}, append(bound("a", nil), driver)...)
	w.stop()
	w.labels = levels{}
	w.kubelet()
	w.register()
	provision(t, w.driver, "h-a")
	labelled := func(name, level string) *v1.Pod {
		p := pod(name, claimVolume("a"))
		p.Spec.SecurityContext = &v1.PodSecurityContext{SELinuxOptions: &v1.SELinuxOptions{Level: level}}
		p.Spec.Containers = []v1.Container{{Name: "c", VolumeMounts: []v1.VolumeMount{{Name: "data"}}}}
		return p
	}
	one, other := labelled("one", "s0:c1,c2"), labelled("other", "s0:c3")
	at, err := w.Setup(t.Context(), one)
	if err != nil || at["data"].Relabel {
		t.Fatalf("%+v, %v", at, err)
	}
	flags := func(p *v1.Pod) []string {
		v, _ := w.driver.Volume("h-a")
		for target, published := range v.Published {
			if strings.Contains(target, string(p.UID)) {
				return published.Capability.GetMount().GetMountFlags()
			}
		}
		return nil
	}
	if got := flags(one); !slices.Equal(got, []string{`context="label:s0:c1,c2"`}) {
		t.Errorf("mounted with %q", got)
	}
	if _, err := w.Setup(t.Context(), other); err == nil || !strings.Contains(err.Error(), `conflicting SELinux labels of volume pv-a: "label:s0:c1,c2" and "label:s0:c3"`) {
		t.Errorf("another label: %v", err)
	}
	if err := w.Teardown(t.Context(), one.UID); err != nil {
		t.Fatal(err)
	}
	other.Spec.SecurityContext.SELinuxChangePolicy = ptr.To(v1.SELinuxChangePolicyRecursive)
	at, err = w.Setup(t.Context(), other)
	if err != nil || !at["data"].Relabel || len(flags(other)) != 0 {
		t.Errorf("labelled file by file: %+v, %q, %v", at, flags(other), err)
	}
}
