package configuration

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
)

// known lists the feature gates of a 1.37 kubelet, one a line: name, default, stage, and whether the default is locked.
//
//go:embed gates.txt
var known string

type gate struct {
	enabled, locked bool
	stage           string
}

func gates() map[string]gate {
	all := map[string]gate{"AllAlpha": {stage: "ALPHA"}, "AllBeta": {stage: "BETA"}}
	for line := range strings.Lines(known) {
		f := strings.Fields(line)
		all[f[0]] = gate{enabled: f[1] == "true", stage: strings.TrimPrefix(f[2], "GA"), locked: len(f) > 3}
	}
	return all
}

// checkGates refuses gates that are not known, and locked ones that are set against their default. All others are
// accepted: what of them this kubelet has is on.
func checkGates(set map[string]bool) []error {
	all := gates()
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	slices.Sort(names)
	var errs []error
	for _, name := range names {
		g, ok := all[name]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("featureGates: unrecognized feature gate: %s", name))
		case g.locked && g.enabled != set[name]:
			errs = append(errs, fmt.Errorf("featureGates: cannot set feature gate %s to %t, feature is locked to %t", name, set[name], g.enabled))
		}
	}
	return errs
}

// Deviating lists the gates that are set to other than their defaults, for a line in the log.
func Deviating(set map[string]bool) []string {
	var out []string
	for name, g := range gates() {
		if v, ok := set[name]; ok && v != g.enabled {
			out = append(out, fmt.Sprintf("%s=%t", name, v))
		}
	}
	slices.Sort(out)
	return out
}

// Gate is the state of a feature gate: whether it is on, and its stage (ALPHA, BETA, DEPRECATED, or empty when generally
// available).
type Gate struct {
	Enabled bool
	Stage   string
}

// Gates lists all gates with those that are set, each for itself, or together by AllAlpha and AllBeta.
func Gates(set map[string]bool) map[string]Gate {
	together := map[string]string{"ALPHA": "AllAlpha", "BETA": "AllBeta"}
	out := map[string]Gate{}
	for name, g := range gates() {
		on := g.enabled
		if v, ok := set[together[g.stage]]; ok && !g.locked {
			on = v
		}
		if v, ok := set[name]; ok {
			on = v
		}
		out[name] = Gate{Enabled: on, Stage: g.stage}
	}
	return out
}
