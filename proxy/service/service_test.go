package service

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func ptr[T any](v T) *T { return &v }

func endpoint(addr, node string, ready, serving, terminating bool) discoveryv1.Endpoint {
	return discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving, Terminating: &terminating}}
}

func slice(eps ...discoveryv1.Endpoint) []*discoveryv1.EndpointSlice {
	return []*discoveryv1.EndpointSlice{{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: eps,
		Ports: []discoveryv1.EndpointPort{{Name: ptr("http"), Port: ptr(int32(8080)), Protocol: ptr(corev1.ProtocolTCP)}, {Name: ptr("dns"), Port: ptr(int32(53)), Protocol: ptr(corev1.ProtocolUDP)}}}}
}

func api() *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "s"}, Spec: corev1.ServiceSpec{ClusterIP: "10.43.0.5", ClusterIPs: []string{"10.43.0.5"},
		Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080}}}}
}

func TestEndpointChoice(t *testing.T) {
	ready := endpoint("10.42.0.2", "a", true, true, false)
	notReady := endpoint("10.42.0.3", "a", false, false, false)
	leaving := endpoint("10.42.0.4", "a", false, true, true)
	dying := endpoint("10.42.0.5", "a", false, false, true)
	remote := endpoint("10.42.1.2", "b", true, true, false)
	for _, tc := range []struct {
		name     string
		eps      []discoveryv1.Endpoint
		local    bool
		external string
	}{
		{"ready ones", []discoveryv1.Endpoint{ready, notReady, leaving, remote}, false, "[10.42.0.2:8080 10.42.1.2:8080]"},
		{"serving while terminating where none is ready", []discoveryv1.Endpoint{notReady, leaving, dying}, false, "[10.42.0.4:8080]"},
		{"local", []discoveryv1.Endpoint{ready, remote}, true, "[10.42.0.2:8080]"},
		{"local, none here", []discoveryv1.Endpoint{remote}, true, "[]"},
		{"twice the same", []discoveryv1.Endpoint{ready, ready}, false, "[10.42.0.2:8080]"},
	} {
		s := api()
		if tc.local {
			s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		}
		got := []string{}
		for _, e := range FromAPI(s, slice(tc.eps...), "a", false).Ports[0].External {
			got = append(got, e.Addr.String())
		}
		if fmt.Sprint(got) != tc.external {
			t.Errorf("%s: %v, want %s", tc.name, got, tc.external)
		}
	}
}

func TestIgnored(t *testing.T) {
	for name, change := range map[string]func(*corev1.Service){
		"headless":      func(s *corev1.Service) { s.Spec.ClusterIP = "None" },
		"external name": func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName },
		"other proxy":   func(s *corev1.Service) { s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "x"} },
		"headless label": func(s *corev1.Service) {
			s.Labels = map[string]string{corev1.IsHeadlessService: ""}
		},
	} {
		s := api()
		change(s)
		if FromAPI(s, nil, "a", false) != nil {
			t.Errorf("%s: not ignored", name)
		}
	}
}

func TestExternalAddresses(t *testing.T) {
	s := api()
	s.Spec.ExternalIPs = []string{"192.0.2.1", "2001:db8::1"}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.2"}, {IP: "192.0.2.3", IPMode: ptr(corev1.LoadBalancerIPModeProxy)}}
	if got := fmt.Sprint(FromAPI(s, nil, "a", false).Ports[0].ExternalIPs); got != "[192.0.2.1 192.0.2.2]" {
		t.Error(got)
	}
}
