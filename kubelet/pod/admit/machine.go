package admit

import (
	"fmt"
	"os"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// checkPressure keeps pods from a node that runs short, as it would only have to evict them again. Memory that runs short keeps
// out those alone that have not said how much they need.
func checkPressure(p *v1.Pod, static bool, _ []*v1.Pod, n Node) *Refusal {
	if len(n.Pressure) == 0 || static || pod.Critical(p) {
		return nil
	}
	if slices.Equal(n.Pressure, []v1.NodeConditionType{v1.NodeMemoryPressure}) {
		taint := v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
		if pod.QOS(p) != v1.PodQOSBestEffort || corev1.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, &taint, true) {
			return nil
		}
	}
	return &Refusal{"Evicted", fmt.Sprintf("The node had condition: %v. ", n.Pressure)}
}

func checkOS(p *v1.Pod, _ bool, _ []*v1.Pod, _ Node) *Refusal {
	if os, ok := p.Labels[v1.LabelOSStable]; ok && os != string(v1.Linux) {
		return &Refusal{"PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	if p.Spec.OS != nil && p.Spec.OS.Name != v1.Linux {
		return &Refusal{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	return nil
}

// checkGroups refuses a pod whose supplemental groups the runtime cannot keep apart from those of its image (KEP-3619).
func checkGroups(p *v1.Pod, _ bool, _ []*v1.Pod, n Node) *Refusal {
	sc := p.Spec.SecurityContext
	if n.Object == nil || sc == nil || sc.SupplementalGroupsPolicy == nil || *sc.SupplementalGroupsPolicy != v1.SupplementalGroupsPolicyStrict {
		return nil
	}
	if f := n.Object.Status.Features; f != nil && f.SupplementalGroupsPolicy != nil && *f.SupplementalGroupsPolicy {
		return nil
	}
	return &Refusal{"SupplementalGroupsPolicyNotSupported", fmt.Sprintf("SupplementalGroupsPolicy=%s is not supported in this node", v1.SupplementalGroupsPolicyStrict)}
}

// checkAppArmor refuses a pod that asks for a profile where the kernel has no AppArmor, and profiles without a name.
func checkAppArmor(p *v1.Pod, _ bool, _ []*v1.Pod, n Node) *Refusal {
	var profiles []*v1.AppArmorProfile
	if sc := p.Spec.SecurityContext; sc != nil {
		profiles = append(profiles, sc.AppArmorProfile)
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if c.SecurityContext != nil {
			profiles = append(profiles, c.SecurityContext.AppArmorProfile)
		}
	}
	for _, profile := range profiles {
		if profile == nil || profile.Type == v1.AppArmorProfileTypeUnconfined {
			continue
		}
		if !n.AppArmor {
			return &Refusal{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
		}
		if profile.Type == v1.AppArmorProfileTypeLocalhost && (profile.LocalhostProfile == nil || strings.TrimSpace(*profile.LocalhostProfile) == "") {
			return &Refusal{"AppArmor", fmt.Sprintf("Cannot enforce AppArmor: invalid empty AppArmor profile name: %q", profile)}
		}
	}
	return nil
}

// AppArmor tells whether the kernel has AppArmor and uses it.
func AppArmor() bool {
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && strings.HasPrefix(string(enabled), "Y")
}
