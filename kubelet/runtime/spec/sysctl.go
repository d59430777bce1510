package spec

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// sysctls of the pod's sandbox: the node's defaults for the namespaces that are the pod's own, and over them what the pod asks for.
func sysctls(n *Node, p *v1.Pod) map[string]string {
	set := map[string]string{}
	for name, value := range n.Sysctls {
		if name = pod.SysctlName(name); owns(p, name) {
			set[name] = value
		}
	}
	if sc := p.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			set[pod.SysctlName(s.Name)] = s.Value
		}
	}
	return set
}

// owns tells whether the sysctl is one of a namespace that the pod has for itself. In any other it would change the host.
func owns(p *v1.Pod, name string) bool {
	switch ns, _, _ := sysctl.GetNamespace(name); ns {
	case sysctl.IPCNamespace:
		return !p.Spec.HostIPC && name != "kernel.shm" && name != "kernel.msg" // these stand for many, and are none
	case sysctl.NetNamespace, sysctl.UTSNamespace:
		return !p.Spec.HostNetwork
	case sysctl.UserNamespace:
		return p.Spec.HostUsers != nil && !*p.Spec.HostUsers
	}
	return false
}
