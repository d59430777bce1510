package admit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestMachine: what the machine lacks, or is short of.
func TestMachine(t *testing.T) {
	const best, burst = "containers: [{name: a}]", "containers: [{name: a, resources: {requests: {memory: 1Mi}}}]"
	const profile = "containers: [{name: a, securityContext: {appArmorProfile: {type: RuntimeDefault}}}]"
	able := &v1.Node{Status: v1.NodeStatus{Features: &v1.NodeFeatures{SupplementalGroupsPolicy: new(bool)}}}
	*able.Status.Features.SupplementalGroupsPolicy = true
	memory, disk := []v1.NodeConditionType{v1.NodeMemoryPressure}, []v1.NodeConditionType{v1.NodeDiskPressure}
	for _, tc := range []struct {
		name, pod, reason, message string
		static                     bool
		node                       Node
	}{
		{name: "short of memory", pod: "spec: {" + best + "}", node: Node{Pressure: memory}, reason: "Evicted", message: "The node had condition: [MemoryPressure]. "},
		{name: "short of memory, which was asked for", pod: "spec: {" + burst + "}", node: Node{Pressure: memory}},
		{name: "short of memory, tolerated", pod: "spec: {" + best + ", tolerations: [{key: node.kubernetes.io/memory-pressure, operator: Exists}]}", node: Node{Pressure: memory}},
		{name: "short of disk", pod: "spec: {" + burst + "}", node: Node{Pressure: disk}, reason: "Evicted", message: "The node had condition: [DiskPressure]. "},
		{name: "short of both", pod: "spec: {" + burst + "}", node: Node{Pressure: append(memory, disk...)}, reason: "Evicted",
			message: "The node had condition: [MemoryPressure DiskPressure]. "},
		{name: "short of disk, static", pod: "spec: {" + best + "}", static: true, node: Node{Pressure: disk}},
		{name: "short of disk, critical", pod: "spec: {priority: 2000000000, " + best + "}", node: Node{Pressure: disk}},
		{name: "label of another system", pod: "{metadata: {labels: {kubernetes.io/os: windows}}, spec: {" + best + "}}", reason: "PodOSSelectorNodeLabelDoesNotMatch",
			message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"},
		{name: "another system", pod: "spec: {os: {name: windows}, " + best + "}", reason: "PodOSNotSupported", message: "Failed to admit pod as the OS field doesn't match node OS"},
		{name: "strict groups", pod: "spec: {securityContext: {supplementalGroupsPolicy: Strict}, " + best + "}", node: Node{Object: &v1.Node{}},
			reason: "SupplementalGroupsPolicyNotSupported", message: "SupplementalGroupsPolicy=Strict is not supported in this node"},
		{name: "strict groups, of which the runtime is able", pod: "spec: {securityContext: {supplementalGroupsPolicy: Strict}, " + best + "}", node: Node{Object: able}},
		{name: "merged groups", pod: "spec: {securityContext: {supplementalGroupsPolicy: Merge}, " + best + "}", node: Node{Object: &v1.Node{}}},
		{name: "no AppArmor", pod: "spec: {" + profile + "}", reason: "AppArmor", message: "Cannot enforce AppArmor: AppArmor is not enabled on the host"},
		{name: "AppArmor", pod: "spec: {" + profile + "}", node: Node{AppArmor: true}},
		{name: "unconfined", pod: "spec: {securityContext: {appArmorProfile: {type: Unconfined}}, " + best + "}"},
		{name: "profile without a name", pod: "spec: {securityContext: {appArmorProfile: {type: Localhost}}, " + best + "}", node: Node{AppArmor: true}, reason: "AppArmor"},
	} {
		got := Check(parse(t, tc.pod), tc.static, nil, tc.node)
		switch {
		case tc.reason == "" && got != nil, tc.reason != "" && got == nil:
			t.Errorf("%s: %+v", tc.name, got)
		case got != nil && (got.Reason != tc.reason || tc.message != "" && got.Message != tc.message):
			t.Errorf("%s: %+v", tc.name, *got)
		}
	}
}
