package configuration

import (
	"maps"
	"regexp"
	"slices"

	"k8s.io/component-helpers/node/util/sysctl"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// sysctlName is how the API writes names of sysctls (pkg/apis/core/validation).
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

// sysctls checks defaultPodSysctls, which needs its gate: only what is of a namespace can be set for a pod.
func (v *check) sysctls(c *kubeletconfig.KubeletConfiguration) {
	const field, longest = "defaultPodSysctls", 253
	if len(c.DefaultPodSysctls) == 0 {
		return
	}
	if !Gates(c.FeatureGates)["DefaultPodSysctls"].Enabled {
		v.failIf(true, field, "needs the feature gate DefaultPodSysctls")
		return
	}
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(c.DefaultPodSysctls)) {
		if len(name) > longest || !sysctlName.MatchString(name) {
			v.failIf(true, field, "%q is not a valid sysctl name", name)
			continue
		}
		ns, _, _ := sysctl.GetNamespace(name)
		v.failIf(ns == sysctl.UnknownNamespace, field, "%q is not known to be namespaced", name)
		plain := sysctl.NormalizeName(name)
		v.failIf(seen[plain], field, "%q is there twice", plain)
		seen[plain] = true
	}
}
