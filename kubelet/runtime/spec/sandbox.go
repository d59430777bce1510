package spec

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func uid(s string) types.UID { return types.UID(s) }

// Sandbox is the configuration of the pod's sandbox. cgroupParent is the pod's cgroup, resolv the content of the host's
// resolver configuration.
func Sandbox(n *Node, p *v1.Pod, attempt uint32, cgroupParent, resolv string) (*cri.PodSandboxConfig, error) {
	dns, _ := DNS(n, p, resolv)
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: p.Name, Namespace: p.Namespace, Uid: string(p.UID), Attempt: attempt},
		LogDirectory: PodLogDir(n.LogsDir, p),
		DnsConfig:    dns,
		Labels:       podLabels(p),
		Annotations:  p.Annotations,
		PortMappings: portMappings(p),
	}
	if !p.Spec.HostNetwork {
		host, domain := Hostname(p, n.ClusterDomain)
		if fqdn := p.Spec.SetHostnameAsFQDN; fqdn != nil && *fqdn && domain != "" {
			host += "." + domain
			if len(host) > 64 {
				return nil, fmt.Errorf("spec.setHostnameAsFQDN: host name %q is longer than the 64 bytes the kernel takes", host)
			}
		}
		config.Hostname = host
	}
	security, err := sandboxSecurity(n, p)
	if err != nil {
		return nil, err
	}
	config.Linux = &cri.LinuxPodSandboxConfig{CgroupParent: cgroupParent, SecurityContext: security, Sysctls: sysctls(n, p)}
	config.Linux.Overhead, config.Linux.Resources = SandboxResources(n, p)
	return config, nil
}

// SandboxResources are what the pod's RuntimeClass adds and what its containers have together, as the runtime is told when
// the sandbox is made and when either changes.
func SandboxResources(n *Node, p *v1.Pod) (overhead, resources *cri.LinuxContainerResources) {
	options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	resources = linuxResources(n, resourcehelper.PodRequests(p, options), resourcehelper.PodLimits(p, options))
	overhead = &cri.LinuxContainerResources{}
	if p.Spec.Overhead != nil {
		overhead = linuxResources(n, p.Spec.Overhead, p.Spec.Overhead)
	}
	return overhead, resources
}

func sandboxSecurity(n *Node, p *v1.Pod) (*cri.LinuxSandboxSecurityContext, error) {
	ns, err := namespaces(n, p)
	if err != nil {
		return nil, err
	}
	security := &cri.LinuxSandboxSecurityContext{
		NamespaceOptions: ns,
		Privileged:       anyPrivileged(p),
		Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
	}
	sc := p.Spec.SecurityContext
	if sc == nil {
		return security, nil
	}
	security.RunAsUser, security.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
	security.SelinuxOptions = selinux(sc.SELinuxOptions)
	security.SupplementalGroups, security.SupplementalGroupsPolicy, err = groups(sc)
	return security, err
}

func anyPrivileged(p *v1.Pod) bool {
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range list {
			if c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged {
				return true
			}
		}
	}
	return false
}

// portMappings lists the ports that the containers (sidecars included) ask to have on the host.
func portMappings(p *v1.Pod) []*cri.PortMapping {
	var list []*cri.PortMapping
	for _, containers := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for _, c := range containers {
			for _, port := range c.Ports {
				list = append(list, &cri.PortMapping{Protocol: protocol(port.Protocol), HostIp: port.HostIP,
					HostPort: port.HostPort, ContainerPort: port.ContainerPort})
			}
		}
	}
	return list
}

func protocol(p v1.Protocol) cri.Protocol {
	switch p {
	case v1.ProtocolUDP:
		return cri.Protocol_UDP
	case v1.ProtocolSCTP:
		return cri.Protocol_SCTP
	}
	return cri.Protocol_TCP
}
