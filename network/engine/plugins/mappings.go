package plugins

import (
	"net/netip"
	"strings"

	"github.com/skiff-node/skiff/network"
	"github.com/skiff-node/skiff/network/cni"
)

// portMappings reads the capability "portMappings" (CNI CONVENTIONS.md). Entries without a host port are left out.
func portMappings(c cni.Call) ([]network.PortMapping, error) {
	var conf struct {
		RuntimeConfig struct {
			PortMappings []struct {
				HostPort      int    `json:"hostPort"`
				ContainerPort int    `json:"containerPort"`
				Protocol      string `json:"protocol"`
				HostIP        string `json:"hostIP"`
			} `json:"portMappings"`
		} `json:"runtimeConfig"`
	}
	if err := c.Decode(&conf); err != nil {
		return nil, err
	}
	var all []network.PortMapping
	for _, m := range conf.RuntimeConfig.PortMappings {
		if m.HostPort == 0 {
			continue
		}
		if m.HostPort < 0 || m.HostPort > 65535 || m.ContainerPort < 1 || m.ContainerPort > 65535 {
			return nil, cni.Error(cni.CodeInvalidConfig, "portMappings: %d to %d is out of range", m.HostPort, m.ContainerPort)
		}
		p := network.PortMapping{
			Protocol: network.Protocol(strings.ToLower(m.Protocol)), HostPort: uint16(m.HostPort), ContainerPort: uint16(m.ContainerPort),
		}
		if m.HostIP != "" {
			ip, err := netip.ParseAddr(m.HostIP)
			if err != nil {
				return nil, cni.Error(cni.CodeInvalidConfig, "portMappings: hostIP %q is no address", m.HostIP)
			}
			p.HostIP = ip
		}
		all = append(all, p)
	}
	return all, nil
}
