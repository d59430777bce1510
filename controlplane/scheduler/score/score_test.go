package score

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// world is two nodes of 10 CPUs and 10Gi in two zones, one twice as full as the other, each with an image.
const world = `
nodes:
- {metadata: {name: a, labels: {kubernetes.io/hostname: a, topology.kubernetes.io/zone: z1, disk: ssd}},
   spec: {taints: [{key: k, effect: PreferNoSchedule}]},
   status: {allocatable: {cpu: 10, memory: 10Gi, pods: 10}, images: [{names: ["big:latest"], sizeBytes: 1048576000}]}}
- {metadata: {name: b, labels: {kubernetes.io/hostname: b, topology.kubernetes.io/zone: z2}},
   status: {allocatable: {cpu: 10, memory: 10Gi, pods: 10}}}
pods:
- {metadata: {name: p, labels: {app: w}}, spec: {nodeName: a, containers: [{name: c, resources: {requests: {cpu: 2, memory: 2Gi}}}]}}
- {metadata: {name: q, labels: {app: w}}, spec: {nodeName: b, containers: [{name: c, resources: {requests: {cpu: 4, memory: 2Gi}}}]}}
- {metadata: {name: r, labels: {app: w}}, spec: {nodeName: b}}
`

func TestRules(t *testing.T) {
	for _, tc := range []struct {
		name, pod, want string
		rule            func(*snapshot.Pod, World, []*snapshot.Node) []int64
	}{
		{"soft taint", "{}", "[0 100]", preferredTaints},
		{"soft taint tolerated", "{tolerations: [{key: k, operator: Exists}]}", "[100 100]", preferredTaints},
		{"no preferred nodes", "{}", "[]", preferredNodes},
		{"preferred nodes", `{affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [
			{weight: 3, preference: {matchExpressions: [{key: disk, operator: In, values: [ssd]}]}},
			{weight: 1, preference: {matchExpressions: [{key: topology.kubernetes.io/zone, operator: Exists}]}}]}}}`, "[100 25]", preferredNodes},
		// a: cpu (10-2-1)/10 = 70, memory 70; b: cpu 50, memory 70.
		{"room", "{containers: [{name: c, resources: {requests: {cpu: 1, memory: 1Gi}}}]}", "[70 60]", leastAllocated},
		// a stays balanced; b goes from 40% cpu against 20% memory to 50% against 30%.
		{"balance", "{containers: [{name: c, resources: {requests: {cpu: 1, memory: 1Gi}}}]}", "[75 75]", balanced},
		{"balance gets better", "{containers: [{name: c, resources: {requests: {memory: 2Gi}}}]}", "[70 80]", balanced},
		{"balance of nothing", "{}", "[]", balanced},
		// Half of the nodes hold the image of 1000 Mi: (500-23)/(1000-23).
		{"image", "{containers: [{name: c, image: big}]}", "[48 0]", images},
		{"spread with siblings", "{}", "[100 75]", evenSpread},
		{"soft constraint", `{topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway,
			labelSelector: {matchLabels: {app: w}}}]}`, "[100 33]", evenSpread},
		{"no neighbours asked for", "{}", "[]", preferredPods},
		{"neighbours", `{affinity: {podAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [
			{weight: 5, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: w}}}}]}}}`, "[0 100]", preferredPods},
		{"no neighbours", `{affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [
			{weight: 5, podAffinityTerm: {topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: w}}}}]}}}`, "[100 0]", preferredPods},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := build(t)
			p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "new", UID: "new", Labels: map[string]string{"app": "w"}}}
			if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(tc.pod, "\t", " ")), &p.Spec); err != nil {
				t.Fatal(err)
			}
			parsed, err := snapshot.NewPod(p)
			if err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(tc.rule(parsed, w, w.Cluster.Nodes())); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func build(t *testing.T) World {
	t.Helper()
	var in struct {
		Nodes []v1.Node
		Pods  []v1.Pod
	}
	if err := yaml.UnmarshalStrict([]byte(world), &in); err != nil {
		t.Fatal(err)
	}
	c := snapshot.NewCluster()
	for i := range in.Nodes {
		c.SetNode(&in.Nodes[i])
	}
	for i := range in.Pods {
		p := &in.Pods[i]
		p.Namespace, p.UID = "default", types.UID(p.Name)
		parsed, err := snapshot.NewPod(p)
		if err != nil {
			t.Fatal(err)
		}
		c.Put(parsed, p.Spec.NodeName)
	}
	return World{Cluster: c, Siblings: func(*v1.Pod) labels.Selector {
		return labels.SelectorFromSet(labels.Set{"app": "w"})
	}}
}
