// Package convert translates between CRI's protobuf messages and the nouns of the services. It is pure: what
// cannot be translated is an error that wraps runtimeservice.ErrInvalid and names the field.
package convert

import (
	"fmt"
	"net/netip"
	"strings"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice"
)

// invalid names a field that cannot be used.
func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", runtimeservice.ErrInvalid, field, fmt.Sprintf(format, args...))
}

// SandboxConfig reads the configuration of a sandbox.
func SandboxConfig(c *cri.PodSandboxConfig, handler string) (runtimeservice.SandboxConfig, error) {
	out := runtimeservice.SandboxConfig{}
	if c == nil {
		return out, invalid("config", "is missing")
	}
	m := c.GetMetadata()
	if m == nil {
		return out, invalid("config.metadata", "is missing")
	}
	if err := names(c); err != nil {
		return out, err
	}
	ports, err := portMappings(c.GetPortMappings())
	if err != nil {
		return out, err
	}
	security, err := sandboxSecurity(c.GetLinux().GetSecurityContext())
	if err != nil {
		return out, err
	}
	return runtimeservice.SandboxConfig{
		Metadata: runtimeservice.SandboxMetadata{
			Name: m.GetName(), UID: m.GetUid(), Namespace: m.GetNamespace(), Attempt: m.GetAttempt(),
		},
		Handler:      handler,
		Hostname:     c.GetHostname(),
		LogDirectory: c.GetLogDirectory(),
		DNS:          dns(c.GetDnsConfig()),
		PortMappings: ports,
		Labels:       c.GetLabels(),
		Annotations:  c.GetAnnotations(),
		CgroupParent: c.GetLinux().GetCgroupParent(),
		Sysctls:      c.GetLinux().GetSysctls(),
		Overhead:     optionalResources(c.GetLinux().GetOverhead()),
		Resources:    optionalResources(c.GetLinux().GetResources()),
		Security:     security,
	}, nil
}

// names checks what ends up in the host name and in the lines of resolv.conf.
func names(c *cri.PodSandboxConfig) error {
	if h := c.GetHostname(); len(h) > 64 || strings.ContainsAny(h, " \t\n\x00/") {
		return invalid("config.hostname", "%q is no host name of at most 64 bytes", h)
	}
	d := c.GetDnsConfig()
	for field, list := range map[string][]string{"servers": d.GetServers(), "searches": d.GetSearches(), "options": d.GetOptions()} {
		for i, word := range list {
			if word == "" || strings.ContainsAny(word, " \t\n\x00") {
				return invalid(fmt.Sprintf("config.dns_config.%s[%d]", field, i), "%q is not one word", word)
			}
		}
	}
	return nil
}

func dns(d *cri.DNSConfig) *runtimeservice.DNS {
	if d == nil {
		return nil
	}
	return &runtimeservice.DNS{Servers: d.GetServers(), Searches: d.GetSearches(), Options: d.GetOptions()}
}

var protocols = map[cri.Protocol]runtimeservice.Protocol{
	cri.Protocol_TCP:  runtimeservice.TCP,
	cri.Protocol_UDP:  runtimeservice.UDP,
	cri.Protocol_SCTP: runtimeservice.SCTP,
}

func portMappings(in []*cri.PortMapping) ([]runtimeservice.PortMapping, error) {
	var out []runtimeservice.PortMapping
	for i, p := range in {
		field := fmt.Sprintf("config.port_mappings[%d]", i)
		protocol, ok := protocols[p.GetProtocol()]
		if !ok {
			return nil, invalid(field+".protocol", "unknown value %d", p.GetProtocol())
		}
		if !port(p.GetContainerPort()) || !port(p.GetHostPort()) {
			return nil, invalid(field, "a port is between 0 and 65535, not %d → %d", p.GetHostPort(), p.GetContainerPort())
		}
		m := runtimeservice.PortMapping{
			Protocol: protocol, ContainerPort: uint16(p.GetContainerPort()), HostPort: uint16(p.GetHostPort()),
		}
		if ip := p.GetHostIp(); ip != "" {
			addr, err := netip.ParseAddr(ip)
			if err != nil {
				return nil, invalid(field+".host_ip", "%v", err)
			}
			m.HostIP = addr
		}
		out = append(out, m)
	}
	return out, nil
}

func port(p int32) bool { return p >= 0 && p <= 65535 }

// PodSandbox is the short form that lists carry.
func PodSandbox(s runtimeservice.Sandbox) *cri.PodSandbox {
	return &cri.PodSandbox{
		Id:             s.ID,
		Metadata:       sandboxMetadata(s.Config.Metadata),
		State:          sandboxState(s.State),
		CreatedAt:      s.CreatedAt.UnixNano(),
		Labels:         s.Config.Labels,
		Annotations:    s.Config.Annotations,
		RuntimeHandler: s.Config.Handler,
	}
}

// PodSandboxStatus is the long form.
func PodSandboxStatus(s runtimeservice.Sandbox) *cri.PodSandboxStatus {
	out := &cri.PodSandboxStatus{
		Id:        s.ID,
		Metadata:  sandboxMetadata(s.Config.Metadata),
		State:     sandboxState(s.State),
		CreatedAt: s.CreatedAt.UnixNano(),
		Network:   &cri.PodSandboxNetworkStatus{},
		Linux: &cri.LinuxPodSandboxStatus{
			Namespaces: &cri.Namespace{Options: namespaceOption(s.Config.Security.Namespaces)},
		},
		Labels:         s.Config.Labels,
		Annotations:    s.Config.Annotations,
		RuntimeHandler: s.Config.Handler,
	}
	for i, ip := range s.IPs {
		if i == 0 {
			out.Network.Ip = ip.String()
			continue
		}
		out.Network.AdditionalIps = append(out.Network.AdditionalIps, &cri.PodIP{Ip: ip.String()})
	}
	return out
}

func sandboxMetadata(m runtimeservice.SandboxMetadata) *cri.PodSandboxMetadata {
	return &cri.PodSandboxMetadata{Name: m.Name, Uid: m.UID, Namespace: m.Namespace, Attempt: m.Attempt}
}

func sandboxState(s runtimeservice.SandboxState) cri.PodSandboxState {
	if s == runtimeservice.SandboxReady {
		return cri.PodSandboxState_SANDBOX_READY
	}
	return cri.PodSandboxState_SANDBOX_NOTREADY
}

// SandboxFilter reads the filter of a sandbox list.
func SandboxFilter(f *cri.PodSandboxFilter) runtimeservice.Filter {
	out := runtimeservice.Filter{ID: f.GetId(), Labels: f.GetLabelSelector()}
	if f.GetState() != nil {
		out.State = string(runtimeservice.SandboxNotReady)
		if f.GetState().GetState() == cri.PodSandboxState_SANDBOX_READY {
			out.State = string(runtimeservice.SandboxReady)
		}
	}
	return out
}
