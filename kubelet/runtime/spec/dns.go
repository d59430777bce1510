package spec

import (
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Limits of resolv.conf that pods may rely on: resolv.conf(5) for the servers, KEP-2595 for the searches.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

// DNS is the resolver configuration of a pod by its dnsPolicy and dnsConfig. resolv is the content of the host's file.
func DNS(n *Node, p *v1.Pod, resolv string) *cri.DNSConfig {
	config := parseResolv(resolv)
	switch policy := p.Spec.DNSPolicy; {
	case policy == v1.DNSNone:
		config = &cri.DNSConfig{}
	case policy == v1.DNSDefault, policy != v1.DNSClusterFirstWithHostNet && p.Spec.HostNetwork, len(n.ClusterDNS) == 0:
	default:
		config = clusterDNS(n, p, config)
	}
	if extra := p.Spec.DNSConfig; extra != nil {
		config.Servers = unique(append(config.Servers, extra.Nameservers...))
		config.Searches = unique(append(config.Searches, extra.Searches...))
		for _, o := range extra.Options {
			config.Options = setOption(config.Options, o)
		}
	}
	return limited(config)
}

// clusterDNS asks the cluster's servers, and searches the pod's namespace, the cluster and then what the host searches.
func clusterDNS(n *Node, p *v1.Pod, host *cri.DNSConfig) *cri.DNSConfig {
	config := &cri.DNSConfig{Servers: slices.Clone(n.ClusterDNS), Options: []string{"ndots:5"}}
	if n.ClusterDomain != "" {
		config.Searches = []string{p.Namespace + ".svc." + n.ClusterDomain, "svc." + n.ClusterDomain, n.ClusterDomain}
	}
	config.Searches = unique(append(config.Searches, host.Searches...))
	return config
}

// parseResolv reads a resolv.conf(5).
func parseResolv(content string) *cri.DNSConfig {
	config := &cri.DNSConfig{}
	for _, line := range strings.Split(content, "\n") {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		switch fields[0] {
		case "nameserver":
			config.Servers = append(config.Servers, fields[1])
		case "search":
			config.Searches = nil
			for _, s := range fields[1:] {
				config.Searches = append(config.Searches, searchDomain(s))
			}
		case "options":
			config.Options = append(config.Options, fields[1:]...)
		}
	}
	return config
}

// searchDomain drops the dot at the end, except from the root domain.
func searchDomain(s string) string {
	if s == "." {
		return s
	}
	return strings.TrimSuffix(s, ".")
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// setOption sets an option, in the place of an earlier one of the same name.
func setOption(options []string, o v1.PodDNSConfigOption) []string {
	entry := o.Name
	if o.Value != nil && *o.Value != "" {
		entry += ":" + *o.Value
	}
	for i, old := range options {
		if name, _, _ := strings.Cut(old, ":"); name == o.Name {
			options[i] = entry
			return options
		}
	}
	return append(options, entry)
}

func limited(config *cri.DNSConfig) *cri.DNSConfig {
	if len(config.Servers) > maxServers {
		config.Servers = config.Servers[:maxServers]
	}
	if len(config.Searches) > maxSearches {
		config.Searches = config.Searches[:maxSearches]
	}
	for len(strings.Join(config.Searches, " ")) > maxSearchChars {
		config.Searches = config.Searches[:len(config.Searches)-1]
	}
	return config
}
