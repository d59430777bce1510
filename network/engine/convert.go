package engine

import (
	"net/netip"

	"github.com/skiff-node/skiff/network"
	"github.com/skiff-node/skiff/network/cni"
)

// portMapping is an entry of the capability "portMappings" (CNI CONVENTIONS.md).
type portMapping struct {
	HostPort      int    `json:"hostPort"`
	ContainerPort int    `json:"containerPort"`
	Protocol      string `json:"protocol"`
	HostIP        string `json:"hostIP,omitempty"`
}

// attachment is what CNI is told of a sandbox: the arguments that Kubernetes runtimes pass by convention, and
// the capabilities that a network may ask for.
func attachment(s network.Sandbox) cni.Attachment {
	a := cni.Attachment{
		ContainerID: s.ID, NetNS: s.NetNS, IfName: interfaceName,
		Args: [][2]string{
			{"IgnoreUnknown", "1"},
			{"K8S_POD_NAMESPACE", s.Namespace},
			{"K8S_POD_NAME", s.Name},
			{"K8S_POD_INFRA_CONTAINER_ID", s.ID},
			{"K8S_POD_UID", s.UID},
		},
		Capabilities: map[string]any{},
	}
	var mappings []portMapping
	for _, m := range s.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		p := portMapping{HostPort: int(m.HostPort), ContainerPort: int(m.ContainerPort), Protocol: string(m.Protocol)}
		if m.HostIP.IsValid() {
			p.HostIP = m.HostIP.String()
		}
		mappings = append(mappings, p)
	}
	if len(mappings) > 0 {
		a.Capabilities["portMappings"] = mappings
	}
	if len(s.Annotations) > 0 {
		a.Capabilities["io.kubernetes.cri.pod-annotations"] = s.Annotations
	}
	return a
}

// resultOf keeps what a pod's status shows of a CNI result: the addresses of interfaces inside of the sandbox.
func resultOf(r *cni.Result) network.Result {
	out := network.Result{Interface: interfaceName}
	for _, ip := range r.IPs {
		if i := ip.Interface; i != nil && *i >= 0 && *i < len(r.Interfaces) && r.Interfaces[*i].Sandbox == "" {
			continue
		}
		if a, ok := netip.AddrFromSlice(ip.Address.IP); ok {
			out.IPs = append(out.IPs, a.Unmap())
		}
	}
	for _, i := range r.Interfaces {
		if i.Sandbox != "" && i.Name == interfaceName {
			out.MAC = i.Mac
		}
	}
	return out
}
