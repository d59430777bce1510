package rules

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/proxy/service"
)

func ep(s string) service.Endpoint {
	return service.Endpoint{Addr: netip.MustParseAddrPort(s), Local: true}
}

func addrPorts(in ...string) []netip.AddrPort {
	var out []netip.AddrPort
	for _, s := range in {
		out = append(out, netip.MustParseAddrPort(s))
	}
	return out
}

func TestAssignMovesAsLittleAsPossible(t *testing.T) {
	const a, b, c, d = "10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "10.0.0.4:1"
	for _, tc := range []struct {
		name string
		old  []netip.AddrPort
		want []string
		out  []netip.AddrPort
	}{
		{"first", nil, []string{a, b}, addrPorts(a, b)},
		{"same", addrPorts(b, a), []string{a, b}, addrPorts(b, a)},
		{"add at the end", addrPorts(b, a), []string{a, b, c}, addrPorts(b, a, c)},
		{"the last fills the hole", addrPorts(a, b, c), []string{b, c}, addrPorts(c, b)},
		{"the last goes", addrPorts(a, b, c), []string{a, b}, addrPorts(a, b)},
		{"replace in place", addrPorts(a, b, c), []string{a, c, d}, addrPorts(a, d, c)},
		{"two go", addrPorts(a, b, c), []string{c}, addrPorts(c)},
		{"all go", addrPorts(a, b), nil, nil},
	} {
		var want []service.Endpoint
		for _, w := range tc.want {
			want = append(want, ep(w))
		}
		if got := assign(tc.old, want); fmt.Sprint(got) != fmt.Sprint(tc.out) {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.out)
		}
	}
}

func svc(ip string, eps ...string) *service.Service {
	a := netip.MustParseAddr(ip)
	p := service.Port{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080, ClusterIPs: []netip.Addr{a}}
	for _, e := range eps {
		p.Internal = append(p.Internal, ep(e))
	}
	p.External = p.Internal
	return &service.Service{Name: types.NamespacedName{Namespace: "d", Name: "s"}, ClusterIPs: []netip.Addr{a}, Ports: []service.Port{p}}
}

// TestCostFollowsTheChange removes one endpoint of three: the count's chain changes in both doors, one slot moves and one
// goes, whatever else is in the table.
func TestCostFollowsTheChange(t *testing.T) {
	table := NewTable()
	for i := range 500 {
		objs, _ := Compile(svc(fmt.Sprintf("10.43.%d.%d", 1+i/250, 1+i%250), "10.42.9.9:8080"), nil)
		delete(objs, Key{NodePorts, proto(corev1.ProtocolTCP) + port(30080)})
		table.Replace(fmt.Sprint("other", i), nil, objs)
	}
	before, slots := Compile(svc("10.43.0.5", "10.42.0.2:8080", "10.42.0.3:8080", "10.42.0.4:8080"), nil)
	table.Replace("d/s", nil, before)
	after, _ := Compile(svc("10.43.0.5", "10.42.0.3:8080", "10.42.0.4:8080"), slots)
	d := table.Replace("d/s", before, after)
	// per door: the verdict and slot 0 change, slot 2 goes; and the hairpin of the endpoint goes
	if len(d.Add) != 4 || len(d.Delete) != 7 {
		t.Errorf("%d added, %d deleted: %v", len(d.Add), len(d.Delete), d)
	}
}

func TestNoEndpoints(t *testing.T) {
	s := svc("10.43.0.5")
	objs, _ := Compile(s, nil)
	if len(objs) != 1 {
		t.Errorf("only the cluster IP should be there: %v", objs)
	}
	s.Ports[0].InternalLocal = true
	objs, _ = Compile(s, nil)
	if _, ok := objs[Key{Dropped, addr(s.ClusterIPs[0]) + proto(corev1.ProtocolTCP) + port(80)}]; !ok {
		t.Errorf("local policy without local endpoint must drop: %v", objs)
	}
}

// TestDeltasAddUp plays random changes and holds the sum of the deltas against the table.
func TestDeltasAddUp(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	table, kernel := NewTable(), map[Key]Value{}
	entries, slots := map[string]Objects{}, map[string]Slots{}
	for range 2000 {
		name := fmt.Sprint("s", r.IntN(4))
		var s *service.Service
		if r.IntN(5) > 0 {
			var eps []string
			for range r.IntN(5) {
				eps = append(eps, fmt.Sprintf("10.42.0.%d:80", 1+r.IntN(6)))
			}
			s = svc(fmt.Sprintf("10.43.0.%d", 1+r.IntN(3)), eps...)
		}
		objs, next := Compile(s, slots[name])
		d := table.Replace(name, entries[name], objs)
		entries[name], slots[name] = objs, next
		for k, v := range d.Delete {
			if kernel[k] != v {
				t.Fatalf("delete %v: kernel has %v", k, kernel[k])
			}
			delete(kernel, k)
		}
		for k, v := range d.Add {
			if _, there := kernel[k]; there {
				t.Fatalf("add %v: it is there", k)
			}
			kernel[k] = v
		}
		if fmt.Sprint(kernel) != fmt.Sprint(table.All()) {
			t.Fatalf("kernel %v\ntable %v", kernel, table.All())
		}
	}
}
