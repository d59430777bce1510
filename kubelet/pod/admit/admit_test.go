package admit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, text string) *v1.Pod {
	t.Helper()
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestSysctls(t *testing.T) {
	node := Node{UnsafeSysctls: []string{"kernel.msg*", "net.core.somaxconn"}}
	for name, c := range map[string]struct {
		sysctl  string
		hostNet bool
		want    string
	}{
		"safe":           {"net.ipv4.tcp_syncookies", false, ""},
		"safe, slashes":  {"net/ipv4/tcp_syncookies", false, ""},
		"unsafe":         {"kernel.shmmax", false, `forbidden sysctl: "kernel.shmmax" not allowlisted`},
		"allowed prefix": {"kernel.msgmax", false, ""},
		"allowed":        {"net.core.somaxconn", false, ""},
		"host network":   {"net.ipv4.tcp_syncookies", true, `forbidden sysctl: "net.ipv4.tcp_syncookies" not allowed with host net enabled`},
	} {
		p := &v1.Pod{Spec: v1.PodSpec{HostNetwork: c.hostNet, SecurityContext: &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: c.sysctl}}}}}
		got := ""
		if r := Check(p, false, nil, node); r != nil {
			got = r.Message
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestCheck(t *testing.T) {
	n := Node{Object: &v1.Node{}, Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi"),
		v1.ResourcePods: resource.MustParse("2"), "x.y/gpu": resource.MustParse("0")}}
	n.Object.Labels = map[string]string{"zone": "a"}
	n.Object.Spec.Taints = []v1.Taint{{Key: "x", Effect: v1.TaintEffectNoExecute}, {Key: "y", Effect: v1.TaintEffectNoSchedule}}
	const fits = ", tolerations: [{key: x, operator: Exists}]"
	running := parse(t, "spec: {containers: [{name: a, ports: [{hostPort: 80, protocol: TCP}], resources: {requests: {cpu: 1500m}}}]}")
	for _, tc := range []struct {
		name, spec, reason, message string
		static                      bool
		active                      []*v1.Pod
	}{
		{name: "fits", spec: "containers: [{name: a, resources: {requests: {cpu: 500m}}}]" + fits, active: []*v1.Pod{running}},
		{name: "cpu", spec: "containers: [{name: a, resources: {requests: {cpu: 501m}}}]" + fits, active: []*v1.Pod{running}, reason: "OutOfcpu",
			message: "Node didn't have enough resource: cpu, requested: 501, used: 1500, capacity: 2000"},
		{name: "memory", spec: "containers: [{name: a, resources: {requests: {memory: 2Gi}}}]" + fits, reason: "OutOfmemory",
			message: "Node didn't have enough resource: memory, requested: 2147483648, used: 0, capacity: 1073741824"},
		{name: "pods", spec: "containers: [{name: a}]" + fits, active: []*v1.Pod{running, running}, reason: "OutOfpods",
			message: "Node didn't have enough resource: pods, requested: 1, used: 2, capacity: 2"},
		{name: "extended, of the cluster", spec: "containers: [{name: a, resources: {requests: {x.y/license: 1}}}]" + fits},
		{name: "extended", spec: "containers: [{name: a, resources: {requests: {x.y/gpu: 1}}}]" + fits, reason: "OutOfx.y/gpu",
			message: "Node didn't have enough resource: x.y/gpu, requested: 1, used: 0, capacity: 0"},
		{name: "extended, by a claim", spec: "containers: [{name: a, resources: {requests: {x.y/gpu: 1}}}]" + fits +
			"}\nstatus: {extendedResourceClaimStatus: {resourceClaimName: c, requestMappings: [{containerName: a, resourceName: x.y/gpu, requestName: r}]}"},
		{name: "selector", spec: "nodeSelector: {zone: b}, containers: [{name: a}]" + fits, reason: "NodeAffinity",
			message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"},
		{name: "port", spec: "containers: [{name: a, ports: [{hostPort: 80, protocol: TCP, hostIP: 127.0.0.1}]}]" + fits, active: []*v1.Pod{running}, reason: "NodePorts",
			message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"},
		{name: "port of another protocol", spec: "containers: [{name: a, ports: [{hostPort: 80, protocol: UDP}]}]" + fits, active: []*v1.Pod{running}},
		{name: "taint", spec: "containers: [{name: a}]", reason: "TaintToleration",
			message: "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"},
		{name: "taint, static", spec: "containers: [{name: a}]", static: true},
		{name: "windows", spec: "os: {name: windows}, containers: [{name: a}]" + fits, reason: "PodOSNotSupported",
			message: "Failed to admit pod as the OS field doesn't match node OS"},
	} {
		got := Check(parse(t, "spec: {"+tc.spec+"}"), tc.static, tc.active, n)
		want := Refusal{tc.reason, tc.message}
		if (got == nil) != (tc.reason == "") || (got != nil && *got != want) {
			t.Errorf("%s: %+v, want %+v", tc.name, got, want)
		}
	}
}
