// Package admit decides whether a node takes in a pod that is bound to it. The scheduler has decided that before, but on what
// it knew then; two schedulers, a changed node or a pod bound by hand can make it wrong. It is pure.
//
// Reasons and messages are upstream's: a refused pod is Failed with them, and controllers read them.
package admit

import (
	"fmt"
	"slices"
	"sort"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// Refusal is why a pod is not taken in.
type Refusal struct{ Reason, Message string }

// Node is what the pod has to fit.
type Node struct {
	// Object is the node as last seen in the API, nil when there is none: then labels and taints are not looked at.
	Object *v1.Node
	// Allocatable is what pods may use, "pods" included. A resource that is not in it is none of the node's: a scheduler that
	// knows about it looks after it.
	Allocatable v1.ResourceList
	// UnsafeSysctls are allowed beside the safe ones: names, or prefixes that end in "*" (allowedUnsafeSysctls).
	UnsafeSysctls []string
	// Pressure are the conditions of a node that runs short.
	Pressure []v1.NodeConditionType
	// AppArmor says that the kernel enforces AppArmor profiles.
	AppArmor bool
}

// Check returns nil when the node can take p in beside the active pods.
func Check(p *v1.Pod, static bool, active []*v1.Pod, n Node) *Refusal {
	for _, check := range []func(*v1.Pod, bool, []*v1.Pod, Node) *Refusal{checkPressure, checkSysctls, checkOS, checkGroups, checkResources, checkAffinity,
		checkPorts, checkTaints, checkAppArmor} {
		if r := check(p, static, active, n); r != nil {
			return r
		}
	}
	return nil
}

func checkResources(p *v1.Pod, _ bool, active []*v1.Pod, n Node) *Refusal {
	short := func(name v1.ResourceName, requested, used, capacity int64) *Refusal {
		return &Refusal{"OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			name, requested, used, capacity)}
	}
	if most, ok := n.Allocatable[v1.ResourcePods]; ok && int64(len(active))+1 > most.Value() {
		return short(v1.ResourcePods, 1, int64(len(active)), most.Value())
	}
	used := v1.ResourceList{}
	for _, a := range active {
		for name, q := range requests(a) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	wanted := requests(p)
	names := make([]string, 0, len(wanted))
	for name := range wanted {
		names = append(names, string(name))
	}
	sort.Strings(names)
	for _, s := range names {
		name := v1.ResourceName(s)
		capacity, known := n.Allocatable[name]
		want, have := wanted[name], used[name]
		if want.IsZero() || !known {
			continue
		}
		w, h, c := amount(name, want.Value(), want.MilliValue()), amount(name, have.Value(), have.MilliValue()), amount(name, capacity.Value(), capacity.MilliValue())
		if w > c-h {
			return short(name, w, h, c)
		}
	}
	return nil
}

func requests(p *v1.Pod) v1.ResourceList {
	return resourcehelper.PodRequests(withoutClaimed(p), resourcehelper.PodResourcesOptions{})
}

// withoutClaimed drops the requests for extended resources that a claim fulfils (KEP-5004): the node has none of them to count.
func withoutClaimed(p *v1.Pod) *v1.Pod {
	x := p.Status.ExtendedResourceClaimStatus
	if x == nil {
		return p
	}
	out := p.DeepCopy()
	for _, list := range [][]v1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for _, m := range x.RequestMappings {
			if i := slices.IndexFunc(list, func(c v1.Container) bool { return c.Name == m.ContainerName }); i >= 0 {
				delete(list[i].Resources.Requests, v1.ResourceName(m.ResourceName))
			}
		}
	}
	return out
}

// amount counts CPUs in thousandths.
func amount(name v1.ResourceName, value, milli int64) int64 {
	if name == v1.ResourceCPU {
		return milli
	}
	return value
}

func checkAffinity(p *v1.Pod, _ bool, _ []*v1.Pod, n Node) *Refusal {
	if n.Object == nil {
		return nil
	}
	ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(n.Object)
	if err != nil || !ok {
		return &Refusal{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

func checkTaints(p *v1.Pod, static bool, _ []*v1.Pod, n Node) *Refusal {
	if n.Object == nil || static {
		return nil
	}
	onlyNoExecute := func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }
	if _, bad := corev1.FindMatchingUntoleratedTaint(klog.Background(), n.Object.Spec.Taints, p.Spec.Tolerations, onlyNoExecute, true); bad {
		return &Refusal{"TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"}
	}
	return nil
}

type hostPort struct {
	ip, protocol string
	port         int32
}

func checkPorts(p *v1.Pod, _ bool, active []*v1.Pod, _ Node) *Refusal {
	taken := map[hostPort]bool{}
	for _, a := range active {
		for _, hp := range hostPorts(a) {
			taken[hp] = true
		}
	}
	for _, want := range hostPorts(p) {
		for have := range taken {
			if conflict(want, have) {
				return &Refusal{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
			}
		}
	}
	return nil
}

func conflict(a, b hostPort) bool {
	return a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == "" || b.ip == "")
}

func hostPorts(p *v1.Pod) []hostPort {
	var list []hostPort
	for _, c := range append(append([]v1.Container{}, p.Spec.InitContainers...), p.Spec.Containers...) {
		for _, port := range c.Ports {
			if port.HostPort > 0 {
				list = append(list, hostPort{ip: bindAddress(port.HostIP), protocol: string(port.Protocol), port: port.HostPort})
			}
		}
	}
	return list
}

// bindAddress is empty for all addresses.
func bindAddress(ip string) string {
	if ip == "0.0.0.0" || ip == "::" {
		return ""
	}
	return ip
}
