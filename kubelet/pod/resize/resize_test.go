package resize

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func need(cpu, memory string) v1.ResourceRequirements {
	return v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}}
}

func testPod(uid, cpu, memory string) *v1.Pod {
	p := &v1.Pod{}
	p.UID, p.Generation = types.UID(uid), 3
	p.Spec.Containers = []v1.Container{{Name: "a", Resources: need(cpu, memory)}}
	return p
}

func TestDecide(t *testing.T) {
	node := Node{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi")}}
	others := []*v1.Pod{testPod("p", "500m", "100Mi"), testPod("q", "1", "100Mi")}
	for name, c := range map[string]struct {
		cpu, memory, want string
	}{
		"fits":               {"1", "200Mi", ""},
		"less":               {"100m", "50Mi", ""},
		"more than is free":  {"1500m", "100Mi", "Deferred: Node didn't have enough resource: cpu, requested: 1500, used: 1000, capacity: 2000"},
		"more than there is": {"500m", "2Gi", "Deferred: Node didn't have enough resource: memory, requested: 2147483648, used: 104857600, capacity: 1073741824"},
	} {
		got := ""
		if r := Decide(testPod("p", c.cpu, c.memory), Allocation{"a": need("500m", "100Mi")}, others, node); r != nil {
			got = r.Reason + ": " + r.Message
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	guaranteed := testPod("p", "1", "100Mi")
	guaranteed.Spec.Containers[0].Resources.Limits = guaranteed.Spec.Containers[0].Resources.Requests
	node.ExclusiveCPUs = "static"
	if r := Decide(guaranteed, Allocation{"a": need("500m", "100Mi")}, others, node); r == nil || !strings.Contains(r.Message, `CPU Manager policy "static"`) {
		t.Errorf("exclusive CPUs: %v", r)
	}
}

// TestFromStatus: a kubelet that was restarted finds what was granted and what is actual in the API's status.
func TestFromStatus(t *testing.T) {
	old, desired := need("500m", "100Mi"), need("1", "100Mi")
	p := testPod("p", "1", "100Mi")
	p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "a", ContainerID: "x://1", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}},
		Resources: &old, AllocatedResources: old.Requests}}
	granted, actual := FromStatus(p)
	if !Same(granted, Allocation{"a": old}) || !Same(actual, Allocation{"a": old}) {
		t.Errorf("edited while no kubelet ran: granted %v, actual %v", granted, actual)
	}
	p.Status.ContainerStatuses[0].AllocatedResources = desired.Requests
	p.Status.Conditions = []v1.PodCondition{{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue, ObservedGeneration: 3}}
	granted, actual = FromStatus(p)
	if !Same(granted, Allocation{"a": desired}) || !Same(actual, Allocation{"a": old}) {
		t.Errorf("granted, not carried out: granted %v, actual %v", granted, actual)
	}
	p.Status.Conditions[0].ObservedGeneration = 2 // edited again since
	if granted, _ = FromStatus(p); Same(granted, Allocation{"a": desired}) && p.Status.Conditions[0].ObservedGeneration == p.Generation {
		t.Errorf("edited again: granted %v", granted)
	}
	if granted, actual = FromStatus(testPod("p", "1", "1Mi")); len(actual) != 0 || !Same(granted, Allocation{"a": need("1", "1Mi")}) {
		t.Errorf("new pod: %v %v", granted, actual)
	}
}

func TestApply(t *testing.T) {
	p := testPod("p", "1", "100Mi")
	p.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}}
	if Apply(p, Of(p)) != p {
		t.Error("copied for nothing")
	}
	got := Apply(p, Allocation{"a": need("2", "100Mi"), Whole: {Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("3")}}})
	cpu, whole := got.Spec.Containers[0].Resources.Requests[v1.ResourceCPU], got.Spec.Resources.Limits[v1.ResourceCPU]
	if cpu.String() != "2" || whole.String() != "3" {
		t.Errorf("%s %s", cpu.String(), whole.String())
	}
	if cpu = p.Spec.Containers[0].Resources.Requests[v1.ResourceCPU]; cpu.String() != "1" {
		t.Error("the original was changed")
	}
	if got := Summary(p, 4, "no"); got != `{"containers":[{"name":"a","resources":{"requests":{"cpu":"1","memory":"100Mi"}}}],"generation":4,"error":"no"}` {
		t.Error(got)
	}
}

// TestSwap: a container's share of the swap follows from its request, which cannot change while it runs.
func TestSwap(t *testing.T) {
	node := Node{Swaps: func(_ *v1.Pod, c *v1.Container) bool { return c.Name == "a" }}
	granted := Allocation{"a": need("1", "100Mi")}
	if r := Decide(testPod("p", "1", "200Mi"), granted, nil, node); r == nil || r.Reason != v1.PodReasonInfeasible || r.Detail != "swap_limitation" {
		t.Errorf("%+v", r)
	}
	if r := Decide(testPod("p", "2", "100Mi"), granted, nil, node); r != nil {
		t.Errorf("only the CPU: %+v", r)
	}
	restarted := testPod("p", "1", "200Mi")
	restarted.Spec.Containers[0].ResizePolicy = []v1.ContainerResizePolicy{{ResourceName: v1.ResourceMemory, RestartPolicy: v1.RestartContainer}}
	if r := Decide(restarted, granted, nil, node); r != nil {
		t.Errorf("restarted: %+v", r)
	}
}
