package assign

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// thing is a provider that has something on some sets of nodes, for containers and for the pod.
type thing struct {
	has   map[string][]numa.Hint // by container; "" for the pod
	given []string
	err   error
}

func (g *thing) Hints(_ *v1.Pod, c *v1.Container) numa.Hints {
	name := ""
	if c != nil {
		name = c.Name
	}
	return numa.Hints{"thing": g.has[name]}
}

func (g *thing) Allocate(_ *v1.Pod, c *v1.Container, near numa.Mask) error {
	g.given = append(g.given, fmt.Sprint(c.Name, "@", near))
	return g.err
}

func machine(nodes int) numa.Machine {
	var m numa.Machine
	for id := range nodes {
		m = append(m, numa.Node{ID: id, CPUs: cpuset.New(id), Distances: make([]uint64, nodes)})
	}
	return m
}

func TestAlign(t *testing.T) {
	p := &v1.Pod{}
	p.Spec.InitContainers, p.Spec.Containers = []v1.Container{{Name: "init"}}, []v1.Container{{Name: "main"}}
	one, other, both := numa.Hint{Nodes: numa.Of(0), Preferred: true}, numa.Hint{Nodes: numa.Of(1), Preferred: true}, numa.Hint{Nodes: numa.Of(0, 1), Preferred: true}
	for _, c := range []struct{ policy, scope, want string }{
		{"none", "container", "init@,main@"},
		{"best-effort", "container", "init@0,main@1"},
		{"best-effort", "pod", "init@0-1,main@0-1"},
		{"restricted", "container", "init@0,main@1"},
		{"restricted", "pod", "init@0-1,main@0-1"},
		{"single-numa-node", "container", "init@0,main@1"},
		{"single-numa-node", "pod", "TopologyAffinityError: Resources cannot be allocated with Topology locality"},
	} {
		a, err := newAligner(&kubeletconfig.KubeletConfiguration{TopologyManagerPolicy: c.policy, TopologyManagerScope: c.scope}, machine(2))
		if err != nil {
			t.Fatal(err)
		}
		g := &thing{has: map[string][]numa.Hint{"init": {one}, "main": {other}, "": {both}}}
		a.providers = []provider{g}
		got := ""
		if err := a.give(p); err != nil {
			r := refusal(err)
			got = r.Reason + ": " + r.Message
		}
		if got += strings.Join(g.given, ","); got != c.want {
			t.Errorf("%s, %s: %s, want %s", c.policy, c.scope, got, c.want)
		}
	}
	a, _ := newAligner(&kubeletconfig.KubeletConfiguration{}, machine(2))
	a.providers = []provider{&thing{err: errors.New("gone")}}
	if r := refusal(a.give(p)); r.Reason != "UnexpectedAdmissionError" || r.Message != "Allocate failed due to gone, which is unexpected" {
		t.Errorf("%+v", r)
	}
}

func TestTopologyOptions(t *testing.T) {
	type conf = kubeletconfig.KubeletConfiguration
	for _, c := range []struct {
		conf  conf
		nodes int
		want  string
	}{
		{conf{TopologyManagerPolicy: "restricted"}, 8, ""},
		{conf{TopologyManagerPolicy: "restricted"}, 9, "unsupported on machines with more than 8 NUMA Nodes"},
		{conf{TopologyManagerPolicy: "none"}, 9, ""},
		{conf{TopologyManagerPolicy: "restricted", TopologyManagerPolicyOptions: map[string]string{"max-allowable-numa-nodes": "16"}}, 9, ""},
		{conf{TopologyManagerPolicy: "restricted", TopologyManagerPolicyOptions: map[string]string{"max-allowable-numa-nodes": "7"}}, 2, "should not be less than 8"},
		{conf{TopologyManagerPolicy: "restricted", TopologyManagerPolicyOptions: map[string]string{"prefer-closest-numa-nodes": "true"}}, 2, ""},
		{conf{TopologyManagerPolicy: "restricted", TopologyManagerPolicyOptions: map[string]string{"warp": "true"}}, 2, `unknown Topology Manager Policy option: "warp"`},
		{conf{TopologyManagerPolicy: "strict"}, 2, `topologyManagerPolicy: unknown policy: "strict"`},
		{conf{TopologyManagerPolicy: "restricted", TopologyManagerScope: "node"}, 2, `topologyManagerScope: unknown scope: "node"`},
	} {
		_, err := newAligner(&c.conf, machine(c.nodes))
		if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%v: %v, want %q", c.conf.TopologyManagerPolicyOptions, err, c.want)
		}
	}
}
