package addons

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func node(name string, ready v1.ConditionStatus, addresses ...string) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: ready}}
	for _, a := range addresses {
		n.Status.Addresses = append(n.Status.Addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: a})
	}
	return n
}

func TestWantedSlice(t *testing.T) {
	for _, tc := range []struct {
		name, ip string
		nodes    []*v1.Node
		want     string
	}{
		{"no nodes", "10.43.0.10", nil, "IPv4"},
		{"ready ones, by name", "10.43.0.10", []*v1.Node{
			node("b", v1.ConditionTrue, "192.0.2.2"), node("a", v1.ConditionTrue, "192.0.2.1"),
			node("silent", v1.ConditionUnknown, "192.0.2.3"), node("broken", v1.ConditionFalse, "192.0.2.4"),
		}, "IPv4 a=192.0.2.1 b=192.0.2.2"},
		{"no address yet", "10.43.0.10", []*v1.Node{node("a", v1.ConditionTrue)}, "IPv4"},
		{"address of the Service's family", "fd00::a", []*v1.Node{node("a", v1.ConditionTrue, "192.0.2.1", "2001:db8::1")}, "IPv6 a=2001:db8::1"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ip := netip.MustParseAddr(tc.ip)
			if got := render(wantedSlice(wantedService(ip), ip, tc.nodes)); got != tc.want {
				t.Errorf("got %s, want %s", got, tc.want)
			}
		})
	}
}

func render(s *discoveryv1.EndpointSlice) string {
	parts := []string{string(s.AddressType)}
	for _, e := range s.Endpoints {
		parts = append(parts, fmt.Sprintf("%s=%s", *e.NodeName, strings.Join(e.Addresses, ",")))
	}
	return strings.Join(parts, " ")
}

// The Service must be one that other proxies leave alone, and that tools know as the cluster's DNS.
func TestWantedService(t *testing.T) {
	s := wantedService(netip.MustParseAddr("10.43.0.10"))
	var ports []string
	for _, p := range s.Spec.Ports {
		ports = append(ports, fmt.Sprintf("%s %d/%s", p.Name, p.Port, p.Protocol))
	}
	got := fmt.Sprintf("%s/%s %s k8s-app=%s proxy=%s %s", s.Namespace, s.Name, s.Spec.ClusterIP,
		s.Labels["k8s-app"], s.Labels["service.kubernetes.io/service-proxy-name"], strings.Join(ports, ", "))
	if want := "kube-system/kube-dns 10.43.0.10 k8s-app=kube-dns proxy=skiff-dns dns 53/UDP, dns-tcp 53/TCP, metrics 9153/TCP"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if len(s.Spec.Selector) > 0 {
		t.Error("it selects pods, but DNS runs in none")
	}
}
