package preempt

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/pod/admit"
)

// Choose picks the pods that have to go for the needs of p, upstream's way: as few as can be of the Guaranteed ones, then of the
// Burstable ones, then of those of BestEffort, each time those first whose requests come closest to what is still needed.
func Choose(p *v1.Pod, active []*v1.Pod, needs []admit.Need) ([]*v1.Pod, error) {
	by := map[v1.PodQOSClass][]*v1.Pod{}
	for _, a := range active {
		if preemptable(p, a) {
			by[pod.QOS(a)] = append(by[pod.QOS(a)], a)
		}
	}
	best, burst, sure := by[v1.PodQOSBestEffort], by[v1.PodQOSBurstable], by[v1.PodQOSGuaranteed]
	if left := without(needs, slices.Concat(best, burst, sure)); len(left) > 0 {
		return nil, unmet(left)
	}
	sure, err := nearest(sure, without(needs, slices.Concat(best, burst)))
	if err != nil {
		return nil, err
	}
	if burst, err = nearest(burst, without(needs, slices.Concat(best, sure))); err != nil {
		return nil, err
	}
	if best, err = nearest(best, without(needs, slices.Concat(burst, sure))); err != nil {
		return nil, err
	}
	return slices.Concat(best, burst, sure), nil
}

func unmet(needs []admit.Need) error {
	var b strings.Builder
	for _, n := range needs {
		fmt.Fprintf(&b, "(res: %v, q: %d), ", n.Name, n.Quantity)
	}
	return fmt.Errorf("no set of running pods found to reclaim resources: [%s]", b.String())
}

// nearest picks pods until the needs are met.
func nearest(pods []*v1.Pod, needs []admit.Need) ([]*v1.Pod, error) {
	pods = slices.Clone(pods)
	var chosen []*v1.Pod
	for len(needs) > 0 {
		if len(pods) == 0 {
			return nil, unmet(needs)
		}
		at := 0
		for i := range pods {
			if closer(pods[i], pods[at], needs) {
				at = i
			}
		}
		needs = without(needs, pods[at:at+1])
		chosen = append(chosen, pods[at])
		pods = slices.Delete(pods, at, at+1)
	}
	return chosen, nil
}

// closer tells whether a comes closer to the needs than b, or as close with smaller requests.
func closer(a, b *v1.Pod, needs []admit.Need) bool {
	x, y := distance(a, needs), distance(b, needs)
	if x != y {
		return x < y
	}
	for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceCPU} {
		if r, s := admit.Requested(a, name), admit.Requested(b, name); r != s {
			return r < s
		}
	}
	return false
}

// distance weighs each need alike, whatever its amount.
func distance(p *v1.Pod, needs []admit.Need) float64 {
	sum := 0.
	for _, n := range needs {
		if left := float64(n.Quantity - admit.Requested(p, n.Name)); left > 0 {
			sum += left / float64(n.Quantity) * left / float64(n.Quantity)
		}
	}
	return sum
}

// without is what is still needed once the pods are gone.
func without(needs []admit.Need, pods []*v1.Pod) []admit.Need {
	var left []admit.Need
	for _, n := range needs {
		for _, p := range pods {
			n.Quantity -= admit.Requested(p, n.Name)
		}
		if n.Quantity > 0 {
			left = append(left, n)
		}
	}
	return left
}
