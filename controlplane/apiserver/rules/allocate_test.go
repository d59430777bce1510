package rules

import (
	"context"
	"errors"
	"net"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/kubernetes/pkg/apis/core"
)

func TestAllocationAfterARestart(t *testing.T) {
	_, r, err := net.ParseCIDR("10.43.0.0/29") // six addresses
	if err != nil {
		t.Fatal(err)
	}
	a, err := newAllocators([]net.IPNet{*r}, utilnet.PortRange{Base: 30000, Size: 4})
	if err != nil {
		t.Fatal(err)
	}
	etcdDown := errors.New("etcd is down")
	var stored runtime.Object
	reads := 0
	a.loader.list = func(context.Context, *internalversion.ListOptions) (runtime.Object, error) {
		reads++
		if stored == nil {
			return nil, etcdDown
		}
		return stored, nil
	}
	ips := a.addresses[core.IPv4Protocol]
	if _, err := ips.AllocateNext(); !errors.Is(err, etcdDown) {
		t.Fatalf("allocated without knowing what is taken: %v", err)
	}
	stored = &core.ServiceList{Items: []core.Service{
		{Spec: core.ServiceSpec{ClusterIPs: []string{"10.43.0.1", "fd00::1"}, Ports: []core.ServicePort{{NodePort: 30001}}}},
		{Spec: core.ServiceSpec{ClusterIPs: []string{"10.43.0.2"}, HealthCheckNodePort: 30002}},
		{Spec: core.ServiceSpec{ClusterIPs: []string{core.ClusterIPNone}, Ports: []core.ServicePort{{Port: 80}}}},
	}}
	got := map[string]bool{}
	for range 4 {
		ip, err := ips.AllocateNext()
		if err != nil {
			t.Fatal(err)
		}
		got[ip.String()] = true
	}
	if got["10.43.0.1"] || got["10.43.0.2"] || len(got) != 4 {
		t.Errorf("handed out %v", got)
	}
	if ip, err := ips.AllocateNext(); err == nil {
		t.Errorf("a full range gave %s", ip)
	}
	ports := map[int]bool{}
	for range 2 {
		p, err := a.ports.AllocateNext()
		if err != nil {
			t.Fatal(err)
		}
		ports[p] = true
	}
	if !ports[30000] || !ports[30003] {
		t.Errorf("handed out ports %v", ports)
	}
	if reads != 2 {
		t.Errorf("read the services %d times", reads)
	}
}

func TestOneRangePerFamily(t *testing.T) {
	var ranges []net.IPNet
	for _, text := range []string{"fd00:43::/112", "10.43.0.0/16"} {
		_, r, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		ranges = append(ranges, *r)
	}
	a, err := newAllocators(ranges, utilnet.PortRange{Base: 30000, Size: 10})
	if err != nil || a.primary != core.IPv6Protocol || len(a.addresses) != 2 {
		t.Errorf("%v %+v", err, a)
	}
	if _, err := newAllocators(nil, utilnet.PortRange{}); err == nil {
		t.Error("no range was accepted")
	}
}
