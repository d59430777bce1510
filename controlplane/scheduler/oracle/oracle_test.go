package oracle

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/apis/config/latest"
	upstreamcache "k8s.io/kubernetes/pkg/scheduler/backend/cache"
	"k8s.io/kubernetes/pkg/scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/names"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
	"k8s.io/kubernetes/pkg/scheduler/metrics"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/score"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// clusters is how many random clusters are compared; each is made from its number.
const clusters = 600

// world is one random cluster and a pod to place.
type world struct {
	nodes   []*v1.Node
	pods    []*v1.Pod
	service *v1.Service
	set     *appsv1.ReplicaSet
	pod     *v1.Pod
}

func TestSameAsUpstream(t *testing.T) {
	metrics.Register()
	refused, scored := 0, 0
	for seed := range uint64(clusters) {
		w := random(rand.New(rand.NewPCG(seed, 7)))
		want, err := upstream(t.Context(), w)
		if err != nil {
			t.Fatalf("cluster %d: upstream: %v", seed, err)
		}
		got := ours(t, w)
		for _, n := range w.nodes {
			if got[n.Name] != want[n.Name] {
				t.Errorf("cluster %d, node %s:\n ours     %s\n upstream %s", seed, n.Name, got[n.Name], want[n.Name])
			}
			if strings.HasPrefix(want[n.Name], "score") {
				scored++
			} else {
				refused++
			}
		}
		if t.Failed() {
			t.Logf("pod: %+v", w.pod.Spec)
			return
		}
	}
	t.Logf("%d nodes scored, %d refused", scored, refused)
	if scored < clusters || refused < clusters {
		t.Error("the random clusters are too easy or too hard to tell anything")
	}
}

// ours renders our verdicts by node.
func ours(t *testing.T, w world) map[string]string {
	t.Helper()
	c := snapshot.NewCluster()
	for _, ns := range namespaces() {
		c.SetNamespace(ns)
	}
	for _, n := range w.nodes {
		c.SetNode(n)
	}
	for _, p := range w.pods {
		c.Put(parse(t, p), p.Spec.NodeName)
	}
	p := parse(t, w.pod)
	out := map[string]string{}
	check, refusal := filter.Prepare(p, filter.World{Cluster: c})
	if refusal != nil {
		t.Fatal(refusal)
	}
	var fit []*snapshot.Node
	for _, n := range c.Nodes() {
		v := check.Node(n)
		if v.Fits() {
			fit = append(fit, n)
			continue
		}
		out[n.Name()] = fmt.Sprintf("%q, for good %v", v.Reasons, v.Unresolvable)
	}
	siblings := func(p *v1.Pod) labels.Selector { return w.siblings() }
	for i, s := range score.Nodes(p, score.World{Cluster: c, Siblings: siblings}, fit) {
		out[fit[i].Name()] = fmt.Sprintf("score %d", s)
	}
	return out
}

func parse(t *testing.T, p *v1.Pod) *snapshot.Pod {
	t.Helper()
	out, err := snapshot.NewPod(p)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// siblings is what the scheduler finds for the pod: its Service's pods, narrowed by its ReplicaSet.
func (w world) siblings() labels.Selector {
	s := labels.NewSelector()
	if of := labels.Set(w.service.Spec.Selector); of.AsSelector().Matches(labels.Set(w.pod.Labels)) && w.service.Namespace == w.pod.Namespace {
		s = of.AsSelector()
	}
	if len(w.pod.OwnerReferences) > 0 {
		own, err := metav1.LabelSelectorAsSelector(w.set.Spec.Selector)
		if err != nil {
			panic(err)
		}
		requirements, _ := own.Requirements()
		s = s.Add(requirements...)
	}
	return s
}

// upstream renders the verdicts of upstream's plugins by node.
func upstream(ctx context.Context, w world) (map[string]string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	objects := []runtime.Object{w.service, w.set}
	for _, ns := range namespaces() {
		objects = append(objects, ns)
	}
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objects...), 0)
	snap := upstreamcache.NewSnapshot(w.pods, w.nodes)
	fw, err := newFramework(ctx, factory, snap)
	if err != nil {
		return nil, err
	}
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	out := map[string]string{}
	state := framework.NewCycleState()
	if _, status, _ := fw.RunPreFilterPlugins(ctx, state, w.pod); !status.IsSuccess() {
		return nil, status.AsError()
	}
	var fit []fwk.NodeInfo
	for _, n := range w.nodes {
		info, err := snap.NodeInfos().Get(n.Name)
		if err != nil {
			return nil, err
		}
		status := fw.RunFilterPlugins(ctx, state, w.pod, info)
		if status.IsSuccess() {
			fit = append(fit, info)
			continue
		}
		out[n.Name] = fmt.Sprintf("%q, for good %v", status.Reasons(), status.Code() == fwk.UnschedulableAndUnresolvable)
	}
	if len(fit) == 0 {
		return out, nil
	}
	if status := fw.RunPreScorePlugins(ctx, state, w.pod, fit); !status.IsSuccess() {
		return nil, status.AsError()
	}
	scores, status := fw.RunScorePlugins(ctx, state, w.pod, fit)
	if !status.IsSuccess() {
		return nil, status.AsError()
	}
	for _, s := range scores {
		out[s.Name] = fmt.Sprintf("score %d", s.TotalScore)
	}
	return out, nil
}

// newFramework makes upstream's framework with the default profile's plugins, less those that need storage or
// resource claims.
func newFramework(ctx context.Context, factory informers.SharedInformerFactory, snap *upstreamcache.Snapshot) (framework.Framework, error) {
	defaults, err := latest.Default()
	if err != nil {
		return nil, err
	}
	profile := defaults.Profiles[0].DeepCopy()
	profile.Plugins = &config.Plugins{MultiPoint: config.PluginSet{Enabled: []config.Plugin{
		{Name: names.PrioritySort},
		{Name: names.NodeName},
		{Name: names.NodeUnschedulable},
		{Name: names.TaintToleration, Weight: 3},
		{Name: names.NodeAffinity, Weight: 2},
		{Name: names.NodePorts},
		{Name: names.NodeResourcesFit, Weight: 1},
		{Name: names.PodTopologySpread, Weight: 2},
		{Name: names.InterPodAffinity, Weight: 2},
		{Name: names.NodeResourcesBalancedAllocation, Weight: 1},
		{Name: names.ImageLocality, Weight: 1},
		{Name: names.DefaultBinder},
	}}}
	kept := map[string]bool{}
	for _, p := range profile.Plugins.MultiPoint.Enabled {
		kept[p.Name] = true
	}
	var args []config.PluginConfig
	for _, a := range profile.PluginConfig {
		if kept[a.Name] {
			args = append(args, a)
		}
	}
	profile.PluginConfig = args
	return frameworkruntime.NewFramework(ctx, plugins.NewInTreeRegistry(), profile,
		frameworkruntime.WithInformerFactory(factory), frameworkruntime.WithSnapshotSharedLister(snap))
}

func namespaces() []*v1.Namespace {
	return []*v1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "red", Labels: map[string]string{"color": "red"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "blue", Labels: map[string]string{"color": "blue"}}},
	}
}

// dice makes random things.
type dice struct{ *rand.Rand }

func (d dice) chance(percent int) bool { return d.IntN(100) < percent }

func pick[T any](d dice, from ...T) T { return from[d.IntN(len(from))] }

func random(r *rand.Rand) world {
	d := dice{r}
	w := world{
		service: &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "red", Name: "s"}, Spec: v1.ServiceSpec{Selector: map[string]string{"app": "a"}}},
		set: &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "red", Name: "rs"},
			Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "x"}}}},
	}
	for i := range 2 + d.IntN(7) {
		w.nodes = append(w.nodes, d.node(fmt.Sprintf("n%d", i)))
	}
	for i := range d.IntN(24) {
		p := d.pod(fmt.Sprintf("p%d", i))
		p.Spec.NodeName = pick(d, w.nodes...).Name
		if d.chance(5) {
			p.DeletionTimestamp = &metav1.Time{}
		}
		w.pods = append(w.pods, p)
	}
	w.pod = d.pod("new")
	w.pod.Spec.TopologySpreadConstraints = d.constraints()
	if w.pod.Namespace == "red" && d.chance(40) {
		controls := true
		w.pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "rs", Controller: &controls}}
	}
	return w
}

func quantity(format string, n int) resource.Quantity {
	return resource.MustParse(fmt.Sprintf(format, n))
}

func (d dice) node(name string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}
	if d.chance(85) {
		n.Labels[v1.LabelTopologyZone] = pick(d, "z1", "z2", "z3")
	}
	if d.chance(50) {
		n.Labels["disk"] = pick(d, "ssd", "hdd")
	}
	n.Spec.Unschedulable = d.chance(6)
	for _, effect := range []v1.TaintEffect{v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute} {
		if d.chance(12) {
			n.Spec.Taints = append(n.Spec.Taints, v1.Taint{Key: pick(d, "k", "l"), Value: pick(d, "", "v"), Effect: effect})
		}
	}
	n.Status.Allocatable = v1.ResourceList{
		v1.ResourceCPU: quantity("%d", 1+d.IntN(8)), v1.ResourceMemory: quantity("%dGi", 1+d.IntN(16)),
		v1.ResourceEphemeralStorage: quantity("%dGi", 1+d.IntN(50)), v1.ResourcePods: quantity("%d", 3+d.IntN(20)),
		"hugepages-2Mi": quantity("%dMi", 2*d.IntN(4)),
	}
	for _, image := range []string{"example.com/a:latest", "example.com/b:1"} {
		if d.chance(50) {
			n.Status.Images = append(n.Status.Images, v1.ContainerImage{Names: []string{image}, SizeBytes: int64(d.IntN(1500)) << 20})
		}
	}
	return n
}

func (d dice) pod(name string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, "red", "red", "blue"), Name: name, UID: types.UID(name),
		Labels: map[string]string{"app": pick(d, "a", "b", "c"), "tier": pick(d, "x", "y")}}}
	for i := range 1 + d.IntN(2) {
		p.Spec.Containers = append(p.Spec.Containers, d.container(fmt.Sprintf("c%d", i)))
	}
	if d.chance(25) {
		c := d.container("i")
		if d.chance(50) {
			always := v1.ContainerRestartPolicyAlways
			c.RestartPolicy = &always
		}
		p.Spec.InitContainers = []v1.Container{c}
	}
	if d.chance(10) {
		p.Spec.Overhead = v1.ResourceList{v1.ResourceCPU: quantity("%dm", 100)}
	}
	if d.chance(20) {
		p.Spec.NodeSelector = map[string]string{"disk": pick(d, "ssd", "hdd")}
	}
	if d.chance(50) {
		p.Spec.Tolerations = []v1.Toleration{{Key: pick(d, "k", "l", ""), Operator: v1.TolerationOpExists,
			Effect: pick(d, "", v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule)}}
	}
	p.Spec.Affinity = d.affinity()
	return p
}

func (d dice) container(name string) v1.Container {
	c := v1.Container{Name: name, Image: pick(d, "example.com/a", "example.com/b:1", "example.com/c:2"),
		Resources: v1.ResourceRequirements{Requests: v1.ResourceList{}}}
	for r, q := range map[v1.ResourceName]resource.Quantity{
		v1.ResourceCPU: quantity("%dm", 50*d.IntN(30)), v1.ResourceMemory: quantity("%dMi", 64*d.IntN(40)), v1.ResourceEphemeralStorage: quantity("%dGi", d.IntN(8)),
	} {
		if d.chance(60) {
			c.Resources.Requests[r] = q
		}
	}
	if d.chance(8) {
		c.Resources.Requests["hugepages-2Mi"] = resource.MustParse("2Mi")
	}
	if d.chance(15) {
		c.Ports = []v1.ContainerPort{{HostPort: int32(80 + d.IntN(2)), Protocol: pick(d, v1.ProtocolTCP, v1.ProtocolUDP), HostIP: pick(d, "", "0.0.0.0", "192.0.2.1")}}
	}
	return c
}

func (d dice) affinity() *v1.Affinity {
	a := &v1.Affinity{}
	if d.chance(25) {
		a.NodeAffinity = &v1.NodeAffinity{}
		if d.chance(50) {
			a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{d.nodeTerm(), d.nodeTerm()}}
		}
		if d.chance(70) {
			a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []v1.PreferredSchedulingTerm{
				{Weight: int32(1 + d.IntN(100)), Preference: d.nodeTerm()}, {Weight: int32(1 + d.IntN(100)), Preference: d.nodeTerm()}}
		}
	}
	if d.chance(20) {
		a.PodAffinity = &v1.PodAffinity{}
		if d.chance(40) {
			a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []v1.PodAffinityTerm{d.podTerm()}
		}
		if d.chance(70) {
			a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []v1.WeightedPodAffinityTerm{{Weight: int32(1 + d.IntN(100)), PodAffinityTerm: d.podTerm()}}
		}
	}
	if d.chance(20) {
		a.PodAntiAffinity = &v1.PodAntiAffinity{}
		if d.chance(40) {
			a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []v1.PodAffinityTerm{d.podTerm()}
		}
		if d.chance(70) {
			a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []v1.WeightedPodAffinityTerm{{Weight: int32(1 + d.IntN(100)), PodAffinityTerm: d.podTerm()}}
		}
	}
	return a
}

func (d dice) nodeTerm() v1.NodeSelectorTerm {
	return v1.NodeSelectorTerm{MatchExpressions: []v1.NodeSelectorRequirement{pick(d,
		v1.NodeSelectorRequirement{Key: "disk", Operator: v1.NodeSelectorOpIn, Values: []string{"ssd"}},
		v1.NodeSelectorRequirement{Key: "disk", Operator: v1.NodeSelectorOpDoesNotExist},
		v1.NodeSelectorRequirement{Key: v1.LabelTopologyZone, Operator: v1.NodeSelectorOpNotIn, Values: []string{"z1"}},
		v1.NodeSelectorRequirement{Key: v1.LabelTopologyZone, Operator: v1.NodeSelectorOpExists},
	)}}
}

func (d dice) podTerm() v1.PodAffinityTerm {
	t := v1.PodAffinityTerm{TopologyKey: pick(d, v1.LabelHostname, v1.LabelTopologyZone, "disk"),
		LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(d, "a", "b", "c")}}}
	switch d.IntN(4) {
	case 0:
		t.Namespaces = []string{"blue"}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"color": pick(d, "red", "blue")}}
	case 2:
		t.NamespaceSelector = &metav1.LabelSelector{}
	}
	return t
}

func (d dice) constraints() []v1.TopologySpreadConstraint {
	var out []v1.TopologySpreadConstraint
	for range pick(d, 0, 0, 1, 2) {
		c := v1.TopologySpreadConstraint{
			MaxSkew: int32(1 + d.IntN(3)), TopologyKey: pick(d, v1.LabelHostname, v1.LabelTopologyZone, "disk"),
			WhenUnsatisfiable: pick(d, v1.DoNotSchedule, v1.ScheduleAnyway),
			LabelSelector:     &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(d, "a", "b", "c")}},
		}
		if d.chance(30) {
			c.MatchLabelKeys = []string{"tier"}
		}
		if d.chance(30) {
			c.NodeAffinityPolicy = new(pick(d, v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore))
		}
		if d.chance(30) {
			c.NodeTaintsPolicy = new(pick(d, v1.NodeInclusionPolicyHonor, v1.NodeInclusionPolicyIgnore))
		}
		if c.WhenUnsatisfiable == v1.DoNotSchedule && d.chance(30) {
			c.MinDomains = new(int32(1 + d.IntN(4)))
		}
		out = append(out, c)
	}
	return out
}
