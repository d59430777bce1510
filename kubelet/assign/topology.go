package assign

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// provider gives out one kind of thing.
type provider interface {
	// Hints tells where the container, or with nil the whole pod, could have what it asks for.
	Hints(p *v1.Pod, c *v1.Container) numa.Hints
	// Allocate gives the container what it asks for, if it has not got it: near to those NUMA nodes where that is possible, anywhere
	// when there are none.
	Allocate(p *v1.Pod, c *v1.Container, near numa.Mask) error
}

// errAffinity is why a pod is refused whose parts would be too far from each other. Its text is upstream's.
type errAffinity struct{}

func (errAffinity) Error() string           { return "Resources cannot be allocated with Topology locality" }
func (errAffinity) AdmissionReason() string { return "TopologyAffinityError" }

// aligner is the topology manager: it gives a pod's containers what they ask for close together.
type aligner struct {
	merger numa.Merger
	// perPod aligns all containers of a pod on the same nodes (topologyManagerScope: pod).
	perPod    bool
	providers []provider
}

// newAligner reads the policy of the topology manager.
func newAligner(c *kubeletconfig.KubeletConfiguration, machine numa.Machine) (*aligner, error) {
	a := &aligner{merger: numa.Merger{Machine: machine, Policy: c.TopologyManagerPolicy}, perPod: c.TopologyManagerScope == kubeletconfig.PodTopologyManagerScope}
	switch c.TopologyManagerPolicy {
	case "", numa.PolicyNone:
		a.merger.Policy = numa.PolicyNone
		return a, nil
	case numa.PolicyBestEffort, numa.PolicyRestricted, numa.PolicySingle:
	default:
		return nil, fmt.Errorf("topologyManagerPolicy: unknown policy: %q", c.TopologyManagerPolicy)
	}
	if s := c.TopologyManagerScope; s != "" && s != kubeletconfig.PodTopologyManagerScope && s != kubeletconfig.ContainerTopologyManagerScope {
		return nil, fmt.Errorf("topologyManagerScope: unknown scope: %q", s)
	}
	most, err := a.options(c.TopologyManagerPolicyOptions)
	if err != nil {
		return nil, fmt.Errorf("topologyManagerPolicyOptions: %w", err)
	}
	if len(machine) > most {
		return nil, fmt.Errorf("topologyManagerPolicy: unsupported on machines with more than %d NUMA Nodes", most)
	}
	return a, nil
}

// mostNodes bounds the sets of nodes that have to be looked at.
const mostNodes = 8

func (a *aligner) options(given map[string]string) (most int, err error) {
	most = mostNodes
	for _, name := range slices.Sorted(maps.Keys(given)) {
		switch name {
		case "prefer-closest-numa-nodes":
			if a.merger.Closest, err = strconv.ParseBool(given[name]); err != nil {
				return 0, fmt.Errorf("bad value for option %q: %w", name, err)
			}
			if a.merger.Closest && slices.ContainsFunc(a.merger.Machine, func(n numa.Node) bool { return n.Distances == nil }) {
				return 0, fmt.Errorf("option %q: this machine does not tell how far its NUMA nodes are from each other", name)
			}
		case "max-allowable-numa-nodes":
			if most, err = strconv.Atoi(given[name]); err != nil {
				return 0, fmt.Errorf("unable to convert policy option to integer %q: %w", name, err)
			}
			if most < mostNodes {
				return 0, fmt.Errorf("the minimum value of %q should not be less than %d", name, mostNodes)
			}
		default:
			return 0, fmt.Errorf("unknown Topology Manager Policy option: %q", name)
		}
	}
	return most, nil
}

// give gives all containers of the pod what they ask for, init containers first.
func (a *aligner) give(p *v1.Pod) error {
	var near numa.Mask
	var err error
	if a.perPod {
		if near, err = a.align(p, nil); err != nil {
			return err
		}
	}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if err := a.giveOne(p, &list[i], near); err != nil {
				return err
			}
		}
	}
	return nil
}

// giveOne gives one container what it asks for. Where each is aligned for itself, near is not known yet.
func (a *aligner) giveOne(p *v1.Pod, c *v1.Container, near numa.Mask) error {
	if !a.perPod {
		var err error
		if near, err = a.align(p, c); err != nil {
			return err
		}
	}
	for _, from := range a.providers {
		if err := from.Allocate(p, c, near); err != nil {
			return err
		}
	}
	return nil
}

// align finds the NUMA nodes that suit the container, or the whole pod.
func (a *aligner) align(p *v1.Pod, c *v1.Container) (numa.Mask, error) {
	if a.merger.Policy == numa.PolicyNone {
		return 0, nil
	}
	var all []numa.Hints
	for _, from := range a.providers {
		all = append(all, from.Hints(p, c))
	}
	best, ok := a.merger.Merge(numa.Collect(all...))
	if !ok {
		return 0, errAffinity{}
	}
	return best.Nodes, nil
}

// refusal tells why a pod is refused: some errors have a reason of their own.
func refusal(err error) *Refusal {
	var reasoned interface {
		error
		AdmissionReason() string
	}
	if errors.As(err, &reasoned) {
		return &Refusal{reasoned.AdmissionReason(), reasoned.Error()}
	}
	return &Refusal{"UnexpectedAdmissionError", fmt.Sprintf("Allocate failed due to %v, which is unexpected", err)}
}
