package admit

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// safe lists the sysctls that any pod may set: they are of its own namespaces and cannot harm others
// (pkg/kubelet/sysctl/safe_sysctls.go).
var safe = map[string]bool{
	"kernel.shm_rmid_forced":              true,
	"net.ipv4.ip_local_port_range":        true,
	"net.ipv4.tcp_syncookies":             true,
	"net.ipv4.ping_group_range":           true,
	"net.ipv4.ip_unprivileged_port_start": true,
	"net.ipv4.ip_local_reserved_ports":    true,
	"net.ipv4.tcp_keepalive_time":         true,
	"net.ipv4.tcp_fin_timeout":            true,
	"net.ipv4.tcp_keepalive_intvl":        true,
	"net.ipv4.tcp_keepalive_probes":       true,
	"net.ipv4.tcp_rmem":                   true,
	"net.ipv4.tcp_wmem":                   true,
	"net.ipv4.tcp_slow_start_after_idle":  true,
	"net.ipv4.tcp_notsent_lowat":          true,
}

func checkSysctls(p *v1.Pod, _ bool, _ []*v1.Pod, n Node) *Refusal {
	if p.Spec.SecurityContext == nil {
		return nil
	}
	for _, s := range p.Spec.SecurityContext.Sysctls {
		name := pod.SysctlName(s.Name)
		if why := n.forbids(name, p); why != "" {
			return &Refusal{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q %s", name, why)}
		}
	}
	return nil
}

// forbids tells why the pod may not set a sysctl, in upstream's words. Those of the host's namespaces would change the host.
func (n Node) forbids(name string, p *v1.Pod) string {
	ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
	net := strings.HasPrefix(name, "net.")
	switch {
	case !safe[name] && !n.allowsUnsafe(name):
		return "not allowlisted"
	case net && p.Spec.HostNetwork:
		return "not allowed with host net enabled"
	case ipc && p.Spec.HostIPC:
		return "not allowed with host ipc enabled"
	}
	return ""
}

func (n Node) allowsUnsafe(name string) bool {
	for _, pattern := range n.UnsafeSysctls {
		pattern = pod.SysctlName(pattern)
		if prefix, ok := strings.CutSuffix(pattern, "*"); ok && strings.HasPrefix(name, prefix) {
			return true
		}
		if pattern == name {
			return true
		}
	}
	return false
}
