package scheduler

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/score"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

func newDecider(nodes ...*v1.Node) *decider {
	c := snapshot.NewCluster()
	for _, n := range nodes {
		c.SetNode(n)
	}
	return &decider{
		filters: filter.World{Cluster: c}, scores: score.World{Cluster: c}, nominated: nominations{},
		pick: func(int) int { return 0 },
	}
}

func parsed(t testing.TB, p *v1.Pod) *snapshot.Pod {
	t.Helper()
	out, err := snapshot.NewPod(p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Room that victims will leave is kept for the pod that they leave for, but not from more important ones.
func TestNominatedPodsKeepTheirRoom(t *testing.T) {
	d := newDecider(node("a"))
	d.nominated.add(parsed(t, pod("waiting", "600m", important(5))), "a")
	for _, tc := range []struct {
		pod  *v1.Pod
		want string
	}{
		{pod("lower", "600m", important(1)), ""},
		{pod("small", "300m", important(1)), "a"},
		{pod("higher", "600m", important(9)), "a"},
		{pod("waiting", "600m", important(5)), "a"},
	} {
		if got := d.decide(parsed(t, tc.pod)); got.Node != tc.want {
			t.Errorf("%s: node %q, want %q: %s", tc.pod.Name, got.Node, tc.want, got.Message)
		}
	}
	if n := d.filters.Cluster.Node("a"); len(n.Pods()) != 0 || n.Requested.MilliCPU != 0 {
		t.Errorf("decisions left pods behind: %v", n.Pods())
	}
}

func TestMessageCountsNodesByReason(t *testing.T) {
	cordoned := func(n *v1.Node) { n.Spec.Unschedulable = true }
	d := newDecider(node("a"), node("b", cordoned), node("c", cordoned))
	got := d.decide(parsed(t, pod("p", "1500m"))).Message
	const want = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable. " +
		"preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
	if got != want {
		t.Errorf("got\n %s\nwant\n %s", got, want)
	}
}

// BenchmarkDecide is what one decision costs among 1 000 nodes that hold 9 pods each.
func BenchmarkDecide(b *testing.B) {
	var nodes []*v1.Node
	for i := range 1000 {
		nodes = append(nodes, node(fmt.Sprintf("n%d", i)))
	}
	d := newDecider(nodes...)
	for i := range 9000 {
		d.filters.Cluster.Put(parsed(b, pod(fmt.Sprintf("p%d", i), "10m")), fmt.Sprintf("n%d", i%1000))
	}
	p := parsed(b, pod("new", "10m"))
	for b.Loop() {
		if d.decide(p).Node == "" {
			b.Fatal("no node")
		}
	}
}
