package spec

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// Limits of resolv.conf that pods may rely on: resolv.conf(5) for the servers, KEP-2595 for the searches.
const (
	maxServers     = 3
	maxSearches    = 32
	maxSearchChars = 2048
	maxDomain      = 253 // longer ones make resolvers fail
)

// Complaint is an event about what a pod does not get of the resolver configuration it asked for.
type Complaint struct{ Reason, Message string }

// DNS is the resolver configuration of a pod by its dnsPolicy and dnsConfig. resolv is the content of the host's file.
func DNS(n *Node, p *v1.Pod, resolv string) (*cri.DNSConfig, []Complaint) {
	var complaints []Complaint
	if clusterFirst(p) && len(n.ClusterDNS) == 0 {
		complaints = append(complaints, Complaint{"MissingClusterDNS", fmt.Sprintf(
			"pod: %q. kubelet does not have ClusterDNS IP configured and cannot create Pod using %q policy. Falling back to %q policy.",
			pod.Describe(p), v1.DNSClusterFirst, v1.DNSDefault)})
	}
	config, more := limited(wantedDNS(n, p, resolv))
	return config, append(complaints, more...)
}

// clusterFirst tells whether the pod is to ask the cluster's servers.
func clusterFirst(p *v1.Pod) bool {
	switch p.Spec.DNSPolicy {
	case v1.DNSNone, v1.DNSDefault:
		return false
	case v1.DNSClusterFirstWithHostNet:
		return true
	}
	return !p.Spec.HostNetwork
}

func wantedDNS(n *Node, p *v1.Pod, resolv string) *cri.DNSConfig {
	config := parseResolv(resolv)
	switch {
	case p.Spec.DNSPolicy == v1.DNSNone:
		config = &cri.DNSConfig{}
	case clusterFirst(p) && len(n.ClusterDNS) > 0:
		config = clusterDNS(n, p, config)
	}
	if extra := p.Spec.DNSConfig; extra != nil {
		config.Servers = unique(append(config.Servers, extra.Nameservers...))
		config.Searches = unique(append(config.Searches, extra.Searches...))
		for _, o := range extra.Options {
			config.Options = setOption(config.Options, o)
		}
	}
	return config
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

// limited cuts off what resolvers do not take, and tells of it.
func limited(config *cri.DNSConfig) (*cri.DNSConfig, []Complaint) {
	var complaints []Complaint
	if len(config.Servers) > maxServers {
		config.Servers = config.Servers[:maxServers]
		complaints = append(complaints, Complaint{"DNSConfigForming",
			"Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: " + strings.Join(config.Servers, " ")})
	}
	asked := len(config.Searches)
	config.Searches = config.Searches[:min(asked, maxSearches)]
	config.Searches = slices.DeleteFunc(config.Searches, func(s string) bool { return len(s) > maxDomain })
	for len(strings.Join(config.Searches, " ")) > maxSearchChars {
		config.Searches = config.Searches[:len(config.Searches)-1]
	}
	if len(config.Searches) < asked {
		complaints = append(complaints, Complaint{"DNSConfigForming",
			"Search Line limits were exceeded, some search paths have been omitted, the applied search line is: " + strings.Join(config.Searches, " ")})
	}
	return config, complaints
}
