package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// ownLabels are those below kubernetes.io and k8s.io that a node may give itself, besides the domains in ownDomains.
// Others the NodeRestriction admission plugin would refuse.
var (
	ownLabels = []string{v1.LabelHostname, v1.LabelOSStable, v1.LabelArchStable, v1.LabelInstanceType, v1.LabelInstanceTypeStable,
		v1.LabelTopologyZone, v1.LabelTopologyRegion, v1.LabelFailureDomainBetaZone, v1.LabelFailureDomainBetaRegion,
		"beta.kubernetes.io/os", "beta.kubernetes.io/arch"}
	ownDomains = []string{"kubelet.kubernetes.io", "node.kubernetes.io"}
)

// parseLabels reads --node-labels, and reports all that is wrong with it.
func parseLabels(s string) (map[string]string, error) {
	out := map[string]string{}
	var errs []error
	for pair := range strings.SplitSeq(s, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		k, v = strings.TrimSpace(k), strings.TrimSpace(v)
		if !ok {
			errs = append(errs, fmt.Errorf("--node-labels: %q is not key=value", pair))
			continue
		}
		for _, why := range append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...) {
			errs = append(errs, fmt.Errorf("--node-labels: %s: %s", pair, why))
		}
		if !mayLabel(k) {
			errs = append(errs, fmt.Errorf("--node-labels: unknown 'kubernetes.io' or 'k8s.io' label %s: such labels must begin with one of %s, or be one of %s",
				k, strings.Join(ownDomains, ", "), strings.Join(ownLabels, ", ")))
		}
		out[k] = v
	}
	return out, errors.Join(errs...)
}

func mayLabel(key string) bool {
	domain, _, ok := strings.Cut(key, "/")
	if !ok || !within(domain, "kubernetes.io") && !within(domain, "k8s.io") {
		return true
	}
	return slices.Contains(ownLabels, key) || slices.ContainsFunc(ownDomains, func(d string) bool { return within(domain, d) })
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}
