package filter_test

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/skiff-node/skiff/controlplane/scheduler/filter"
	"github.com/skiff-node/skiff/controlplane/scheduler/snapshot"
)

// world is three nodes of 2 CPUs, 4Gi, in two zones; further YAML per case changes them or adds pods.
const world = `
- {kind: Node, name: a, zone: z1}
- {kind: Node, name: b, zone: z1}
- {kind: Node, name: c, zone: z2}
`

type thing struct {
	Kind, Name, Zone, At, Namespace string
	Labels                          map[string]string
	Node                            *v1.NodeSpec
	Allocatable                     v1.ResourceList
	Pod                             v1.PodSpec
	Leaving                         bool
	Claim                           *v1.PersistentVolumeClaimSpec
	Volume                          *v1.PersistentVolumeSpec
	Class                           *storagev1.StorageClass
	Annotations                     map[string]string
}

type store struct {
	claims  map[string]*v1.PersistentVolumeClaim
	volumes map[string]*v1.PersistentVolume
	classes map[string]*storagev1.StorageClass
	users   map[string]int
}

func (s store) Claim(ns, name string) *v1.PersistentVolumeClaim { return s.claims[ns+"/"+name] }
func (s store) Volume(name string) *v1.PersistentVolume         { return s.volumes[name] }
func (s store) Class(name string) *storagev1.StorageClass       { return s.classes[name] }
func (s store) ClaimUsers(ns, name string) int                  { return s.users[ns+"/"+name] }

func build(t *testing.T, text string) filter.World {
	t.Helper()
	var things []thing
	if err := yaml.UnmarshalStrict([]byte(world+text), &things); err != nil {
		t.Fatal(err)
	}
	c := snapshot.NewCluster()
	s := store{map[string]*v1.PersistentVolumeClaim{}, map[string]*v1.PersistentVolume{}, map[string]*storagev1.StorageClass{}, map[string]int{}}
	c.SetNamespace(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default", Labels: map[string]string{"team": "red"}}})
	c.SetNamespace(&v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "other", Labels: map[string]string{"team": "blue"}}})
	for _, th := range things {
		if th.Namespace == "" {
			th.Namespace = "default"
		}
		meta := metav1.ObjectMeta{Name: th.Name, Namespace: th.Namespace, UID: types.UID(th.Kind + th.Name), Labels: th.Labels, Annotations: th.Annotations}
		switch th.Kind {
		case "Node":
			c.SetNode(node(th, meta))
		case "Pod":
			p := pod(t, th, meta)
			c.Put(p, th.At)
			for _, v := range th.Pod.Volumes {
				s.users["default/"+v.PersistentVolumeClaim.ClaimName]++
			}
		case "Claim":
			s.claims[th.Namespace+"/"+th.Name] = &v1.PersistentVolumeClaim{ObjectMeta: meta, Spec: *th.Claim}
		case "Volume":
			s.volumes[th.Name] = &v1.PersistentVolume{ObjectMeta: meta, Spec: *th.Volume}
		case "Class":
			th.Class.Name = th.Name
			s.classes[th.Name] = th.Class
		default:
			t.Fatalf("kind %q", th.Kind)
		}
	}
	return filter.World{Cluster: c, Volumes: s}
}

func node(th thing, meta metav1.ObjectMeta) *v1.Node {
	n := &v1.Node{ObjectMeta: meta}
	n.Namespace = ""
	n.Labels = map[string]string{v1.LabelHostname: th.Name}
	for k, v := range th.Labels {
		n.Labels[k] = v
	}
	if th.Zone != "" {
		n.Labels[v1.LabelTopologyZone] = th.Zone
	}
	if th.Node != nil {
		n.Spec = *th.Node
	}
	n.Status.Allocatable = th.Allocatable
	if th.Allocatable == nil {
		n.Status.Allocatable = resources("cpu: 2, memory: 4Gi, pods: 10, ephemeral-storage: 10Gi, example.com/gpu: 1")
	}
	return n
}

func resources(text string) v1.ResourceList {
	var out v1.ResourceList
	if err := yaml.Unmarshal([]byte("{"+text+"}"), &out); err != nil {
		panic(err)
	}
	return out
}

func pod(t *testing.T, th thing, meta metav1.ObjectMeta) *snapshot.Pod {
	t.Helper()
	obj := &v1.Pod{ObjectMeta: meta, Spec: th.Pod}
	if th.Leaving {
		obj.DeletionTimestamp = &metav1.Time{}
	}
	p, err := snapshot.NewPod(obj)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// verdicts renders what the rules say, as "a: ok; b: reason (for good)".
func verdicts(p *snapshot.Pod, w filter.World) string {
	check, refusal := filter.Prepare(p, w)
	if refusal != nil {
		return "all: " + refusal.Reason
	}
	var parts []string
	for _, n := range w.Cluster.Nodes() {
		v := check.Node(n)
		text := "ok"
		if !v.Fits() {
			text = strings.Join(v.Reasons, " + ")
		}
		if v.Unresolvable {
			text += " (for good)"
		}
		parts = append(parts, n.Name()+": "+text)
	}
	return strings.Join(parts, "; ")
}

func TestRules(t *testing.T) {
	const (
		everywhere = "a: ok; b: ok; c: ok"
		affinity   = "node(s) didn't match pod affinity rules (for good)"
		anti       = "node(s) didn't match pod anti-affinity rules"
		existing   = "node(s) didn't satisfy existing pods anti-affinity rules"
		skew       = "node(s) didn't match pod topology spread constraints"
		selector   = "node(s) didn't match Pod's node affinity/selector (for good)"
		tainted    = "node(s) had untolerated taint(s) (for good)"
	)
	for _, tc := range []struct{ name, world, pod, want string }{
		{"nothing asked", "", "{}", everywhere},
		{"cordoned", "- {kind: Node, name: b, node: {unschedulable: true}}", "{}",
			"a: ok; b: node(s) were unschedulable (for good); c: ok"},
		{"cordoned and tolerated", "- {kind: Node, name: b, node: {unschedulable: true}}",
			"{tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists}]}", everywhere},
		{"tainted", "- {kind: Node, name: b, node: {taints: [{key: k, value: v, effect: NoSchedule}]}}", "{}",
			"a: ok; b: " + tainted + "; c: ok"},
		{"tainted to evict", "- {kind: Node, name: b, node: {taints: [{key: k, effect: NoExecute}]}}", "{}",
			"a: ok; b: " + tainted + "; c: ok"},
		{"softly tainted", "- {kind: Node, name: b, node: {taints: [{key: k, effect: PreferNoSchedule}]}}", "{}", everywhere},
		{"taint tolerated", "- {kind: Node, name: b, node: {taints: [{key: k, value: v, effect: NoSchedule}]}}",
			"{tolerations: [{key: k, operator: Equal, value: v}]}", everywhere},
		{"another taint tolerated", "- {kind: Node, name: b, node: {taints: [{key: k, value: v, effect: NoSchedule}]}}",
			"{tolerations: [{key: k, operator: Equal, value: w}]}", "a: ok; b: " + tainted + "; c: ok"},

		{"node selector", "", "{nodeSelector: {kubernetes.io/hostname: a}}", "a: ok; b: " + selector + "; c: " + selector},
		{"node affinity", "", `{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
			{matchExpressions: [{key: topology.kubernetes.io/zone, operator: NotIn, values: [z1]}]}]}}}}`,
			"a: " + selector + "; b: " + selector + "; c: ok"},
		{"by node name, as daemon sets do", "", `{affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
			{matchFields: [{key: metadata.name, operator: In, values: [b]}]}]}}}}`,
			"a: " + selector + "; b: ok; c: " + selector},

		{"host port taken", "- {kind: Pod, name: p, at: a, pod: {containers: [{name: x, ports: [{hostPort: 80}]}]}}",
			"{containers: [{name: y, ports: [{hostPort: 80, protocol: TCP}]}]}",
			"a: node(s) didn't have free ports for the requested pod ports; b: ok; c: ok"},
		{"host port of another protocol", "- {kind: Pod, name: p, at: a, pod: {containers: [{name: x, ports: [{hostPort: 80, protocol: UDP}]}]}}",
			"{containers: [{name: y, ports: [{hostPort: 80}]}]}", everywhere},
		{"host port of another address", "- {kind: Pod, name: p, at: a, pod: {containers: [{name: x, ports: [{hostPort: 80, hostIP: 192.0.2.1}]}]}}",
			"{containers: [{name: y, ports: [{hostPort: 80, hostIP: 192.0.2.2}]}]}", everywhere},
		{"host port of all addresses", "- {kind: Pod, name: p, at: a, pod: {containers: [{name: x, ports: [{hostPort: 80, hostIP: 192.0.2.1}]}]}}",
			"{containers: [{name: y, ports: [{hostPort: 80, hostIP: 0.0.0.0}]}]}",
			"a: node(s) didn't have free ports for the requested pod ports; b: ok; c: ok"},

		{"fits exactly", "", "{containers: [{name: x, resources: {requests: {cpu: 2, memory: 4Gi}}}]}", everywhere},
		{"never fits", "", "{containers: [{name: x, resources: {requests: {cpu: 3}}}]}",
			"a: Insufficient cpu (for good); b: Insufficient cpu (for good); c: Insufficient cpu (for good)"},
		{"full now", "- {kind: Pod, name: p, at: b, pod: {containers: [{name: x, resources: {requests: {cpu: 1500m, memory: 3Gi}}}]}}",
			"{containers: [{name: x, resources: {requests: {cpu: 1, memory: 2Gi}}}]}",
			"a: ok; b: Insufficient cpu + Insufficient memory; c: ok"},
		{"device taken", "- {kind: Pod, name: p, at: c, pod: {containers: [{name: x, resources: {requests: {example.com/gpu: 1}}}]}}",
			"{containers: [{name: x, resources: {requests: {example.com/gpu: 1}}}]}", "a: ok; b: ok; c: Insufficient example.com/gpu"},
		{"device unknown", "", "{containers: [{name: x, resources: {requests: {example.com/fpga: 1}}}]}",
			"a: Insufficient example.com/fpga (for good); b: Insufficient example.com/fpga (for good); c: Insufficient example.com/fpga (for good)"},
		{"init containers run one by one, sidecars beside", "",
			`{initContainers: [{name: s, restartPolicy: Always, resources: {requests: {cpu: 500m}}}, {name: i, resources: {requests: {cpu: 1700m}}}],
			  containers: [{name: x, resources: {requests: {cpu: 1}}}]}`,
			"a: Insufficient cpu (for good); b: Insufficient cpu (for good); c: Insufficient cpu (for good)"},
		{"overhead counts", "", "{overhead: {cpu: 100m}, containers: [{name: x, resources: {requests: {cpu: 2}}}]}",
			"a: Insufficient cpu (for good); b: Insufficient cpu (for good); c: Insufficient cpu (for good)"},
		{"too many pods", "- {kind: Node, name: b, allocatable: {cpu: 2, memory: 4Gi, pods: 0}}", "{}", "a: ok; b: Too many pods; c: ok"},

		{"spread over nodes", "- {kind: Pod, name: p, at: a, labels: {app: w}}\n- {kind: Pod, name: q, at: b, labels: {app: w}}",
			"{topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: w}}}]}",
			"a: " + skew + "; b: " + skew + "; c: ok"},
		{"spread over zones", "- {kind: Pod, name: p, at: a, labels: {app: w}}",
			"{topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: w}}}]}",
			"a: " + skew + "; b: " + skew + "; c: ok"},
		{"those that leave, or live in another namespace, do not count",
			"- {kind: Pod, name: p, at: a, labels: {app: w}, leaving: true}\n- {kind: Pod, name: q, at: b, labels: {app: w}, namespace: other}",
			"{topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: w}}}]}",
			everywhere},
		{"node without the key", "- {kind: Node, name: d}",
			"{topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: w}}}]}",
			"a: ok; b: ok; c: ok; d: " + skew + " (missing required label) (for good)"},
		{"more domains wanted than there are", "- {kind: Pod, name: p, at: a, labels: {app: w}}\n- {kind: Pod, name: q, at: c, labels: {app: w}}",
			"{topologySpreadConstraints: [{maxSkew: 1, minDomains: 3, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: w}}}]}",
			"a: " + skew + "; b: " + skew + "; c: " + skew},
		{"nodes that the pod cannot use do not count", "- {kind: Pod, name: p, at: a, labels: {app: w}}",
			"{nodeSelector: {topology.kubernetes.io/zone: z1}, topologySpreadConstraints: [{maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: w}}}]}",
			"a: ok; b: ok; c: " + selector},

		{"near others", "- {kind: Pod, name: p, at: a, labels: {app: db}}",
			"{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {app: db}}}]}}}",
			"a: ok; b: ok; c: " + affinity},
		{"near others of another namespace", "- {kind: Pod, name: p, at: c, namespace: other, labels: {app: db}}",
			"{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {app: db}}, namespaceSelector: {matchLabels: {team: blue}}}]}}}",
			"a: " + affinity + "; b: " + affinity + "; c: ok"},
		{"near nobody", "",
			"{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {app: db}}}]}}}",
			"a: " + affinity + "; b: " + affinity + "; c: " + affinity},
		{"first of its own kind", "",
			"{affinity: {podAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {app: w}}}]}}}",
			everywhere},
		{"away from others", "- {kind: Pod, name: p, at: a, labels: {app: w}}",
			"{affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: kubernetes.io/hostname, labelSelector: {matchLabels: {app: w}}}]}}}",
			"a: " + anti + "; b: ok; c: ok"},
		{"refused by others",
			"- {kind: Pod, name: p, at: a, labels: {app: v}, pod: {affinity: {podAntiAffinity: {requiredDuringSchedulingIgnoredDuringExecution: [{topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {app: w}}}]}}}}",
			"{}", "a: " + existing + "; b: " + existing + "; c: ok"},

		{"claim missing", "", "{volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}", `all: persistentvolumeclaim "data" not found`},
		{"claim unbound", "- {kind: Claim, name: data, claim: {}}",
			"{volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}", "all: pod has unbound immediate PersistentVolumeClaims"},
		{"claim bound to a volume of one node", `
- {kind: Claim, name: data, claim: {volumeName: pv}, annotations: {pv.kubernetes.io/bind-completed: "yes"}}
- {kind: Volume, name: pv, volume: {nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [b]}]}]}}}}`,
			"{volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}",
			"a: node(s) didn't match PersistentVolume's node affinity (for good); b: ok; c: node(s) didn't match PersistentVolume's node affinity (for good)"},
		{"claim bound to a volume that is gone", `
- {kind: Claim, name: data, claim: {volumeName: pv}, annotations: {pv.kubernetes.io/bind-completed: "yes"}}`,
			"{nodeSelector: {kubernetes.io/hostname: a}, volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}",
			"a: node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s) (for good); b: " + selector + "; c: " + selector},
		{"claim waits for its first consumer", `
- {kind: Claim, name: data, claim: {storageClassName: local}}
- {kind: Class, name: local, class: {provisioner: example.com/x, volumeBindingMode: WaitForFirstConsumer, allowedTopologies: [{matchLabelExpressions: [{key: topology.kubernetes.io/zone, values: [z2]}]}]}}`,
			"{volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}",
			"a: node(s) didn't find available persistent volumes to bind (for good); b: node(s) didn't find available persistent volumes to bind (for good); c: ok"},
		{"claim for one pod alone, in use", `
- {kind: Claim, name: data, claim: {volumeName: pv, accessModes: [ReadWriteOncePod]}, annotations: {pv.kubernetes.io/bind-completed: "yes"}}
- {kind: Volume, name: pv, volume: {}}
- {kind: Pod, name: p, at: a, pod: {volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}}`,
			"{volumes: [{name: v, persistentVolumeClaim: {claimName: data}}]}",
			"all: node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := build(t, tc.world)
			var spec v1.PodSpec
			if err := yaml.UnmarshalStrict([]byte(strings.ReplaceAll(tc.pod, "\t", " ")), &spec); err != nil {
				t.Fatal(err)
			}
			p := pod(t, thing{Pod: spec}, metav1.ObjectMeta{Name: "new", Namespace: "default", UID: "new", Labels: map[string]string{"app": "w"}})
			if got := verdicts(p, w); got != tc.want {
				t.Errorf("got\n %s\nwant\n %s", got, tc.want)
			}
		})
	}
}
