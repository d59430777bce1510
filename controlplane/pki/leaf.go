package pki

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// leaf is the wish for one certificate that an authority signs.
type leaf struct {
	files      Pair
	user       string   // common name
	groups     []string // organizations
	server     bool     // serving certificate with names; otherwise a client certificate
	frontProxy bool     // signed by the front proxy authority
	names      []string // sorted DNS names
	ips        []net.IP // sorted, without duplicates
}

// leaves lists the certificates of a server node.
func leaves(c Config, p Paths) []leaf {
	names, ips := apiServerNames(c)
	kubeletIPs := append([]netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1})}, c.NodeIPs...)
	return []leaf{
		{files: p.APIServer, user: "kube-apiserver", server: true, names: names, ips: ips},
		{files: p.APIServerKubeletClient, user: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
		{files: p.FrontProxyClient, user: "front-proxy-client", frontProxy: true},
		{files: p.Admin, user: "kubernetes-admin", groups: []string{"system:masters"}},
		{files: p.ControllerManager, user: "system:kube-controller-manager"},
		{files: p.Scheduler, user: "system:kube-scheduler"},
		{files: p.Kubelet, user: "system:node:" + c.NodeName, groups: []string{"system:nodes"}},
		{files: p.KubeletServing, user: "system:node:" + c.NodeName, groups: []string{"system:nodes"}, server: true,
			names: sortedNames([]string{c.NodeName, "localhost"}), ips: sortedIPs(kubeletIPs)},
		{files: p.Proxy, user: "system:kube-proxy"},
		{files: p.DNS, user: DNSUser},
	}
}

// apiServerNames are the names and addresses under which a client may know the API server.
func apiServerNames(c Config) ([]string, []net.IP) {
	names := []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc." + c.ClusterDomain, "localhost", c.NodeName}
	addrs := []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback(), c.ServiceIP}
	addrs = append(addrs, c.NodeIPs...)
	for _, h := range c.Hostnames {
		if a, err := netip.ParseAddr(h); err == nil {
			addrs = append(addrs, a)
		} else {
			names = append(names, h)
		}
	}
	return sortedNames(names), sortedIPs(addrs)
}

func sortedNames(in []string) []string {
	out := make([]string, 0, len(in))
	for _, n := range in {
		if n != "" {
			out = append(out, strings.ToLower(n))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func sortedIPs(in []netip.Addr) []net.IP {
	var valid []netip.Addr
	for _, a := range in {
		if a.IsValid() {
			valid = append(valid, a.Unmap().WithZone(""))
		}
	}
	slices.SortFunc(valid, netip.Addr.Compare)
	var out []net.IP
	for _, a := range slices.Compact(valid) {
		out = append(out, net.IP(a.AsSlice()))
	}
	return out
}

func (l leaf) usage() x509.ExtKeyUsage {
	if l.server {
		return x509.ExtKeyUsageServerAuth
	}
	return x509.ExtKeyUsageClientAuth
}
