package hostport

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/network"
)

func TestIntervals(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want string
	}{
		{"", ""},
		{"10.42.0.0/16", "10.42.0.0 10.43.0.0]"},
		{"10.42.0.0/16 10.42.7.0/24 10.42.0.0/16", "10.42.0.0 10.43.0.0]"},
		{"10.43.0.0/16 10.42.0.0/16", "10.42.0.0 10.44.0.0]"},
		{"10.0.0.0/8 192.168.0.0/16 fd00::/8", "10.0.0.0 11.0.0.0] 192.168.0.0 192.169.0.0]"},
		{"224.0.0.0/3", "224.0.0.0"},
		{"0.0.0.0/0 10.0.0.0/8", "0.0.0.0"},
		{"10.42.1.7/24", "10.42.1.0 10.42.2.0]"},
	} {
		var in []netip.Prefix
		for _, text := range strings.Fields(tc.in) {
			in = append(in, netip.MustParsePrefix(text))
		}
		var got []string
		for _, e := range intervals(in) {
			a, _ := netip.AddrFromSlice(e.Key)
			end := map[bool]string{true: "]"}[e.IntervalEnd]
			got = append(got, a.String()+end)
		}
		if text := strings.Join(got, " "); text != tc.want {
			t.Errorf("%s: %s, want %s", tc.in, text, tc.want)
		}
	}
}

func FuzzIntervals(f *testing.F) {
	f.Add([]byte{10, 0, 0, 0, 8, 10, 1, 0, 0, 16}, uint32(0x0a000001))
	f.Fuzz(func(t *testing.T, data []byte, probe uint32) {
		var in []netip.Prefix
		for ; len(data) >= 5; data = data[5:] {
			in = append(in, netip.PrefixFrom(netip.AddrFrom4([4]byte(data[:4])), int(data[4]%33)))
		}
		a := netip.AddrFrom4([4]byte{byte(probe >> 24), byte(probe >> 16), byte(probe >> 8), byte(probe)})
		want, got := false, false
		for _, p := range in {
			want = want || p.Contains(a)
		}
		previous := netip.Addr{}
		for i, e := range intervals(in) {
			start, _ := netip.AddrFromSlice(e.Key)
			if i > 0 && !previous.Less(start) || e.IntervalEnd != (i%2 == 1) {
				t.Fatalf("%v: elements are not in turn", intervals(in))
			}
			if previous = start; !a.Less(start) {
				got = !e.IntervalEnd
			}
		}
		if got != want {
			t.Errorf("%v contains %s: %v, want %v", in, a, got, want)
		}
	})
}

func TestPublishedPorts(t *testing.T) {
	ip := netip.MustParseAddr("10.42.0.2")
	m := func(proto network.Protocol, host string, port uint16) network.PortMapping {
		p := network.PortMapping{Protocol: proto, HostPort: port, ContainerPort: 80}
		if host != "" {
			p.HostIP = netip.MustParseAddr(host)
		}
		return p
	}
	for name, tc := range map[string]struct {
		ports []network.PortMapping
		want  string
		err   string
	}{
		"none":                   {ports: []network.PortMapping{{Protocol: "tcp", ContainerPort: 80}}, want: "map[]"},
		"any address":            {ports: []network.PortMapping{m("tcp", "0.0.0.0", 80)}, want: "map[80/tcp:10.42.0.2:80]"},
		"any address, the other": {ports: []network.PortMapping{m("udp", "::", 80)}, want: "map[80/udp:10.42.0.2:80]"},
		"one and any":            {ports: []network.PortMapping{m("tcp", "", 80), m("tcp", "192.0.2.1", 80)}, want: "map[192.0.2.1:80/tcp:10.42.0.2:80 80/tcp:10.42.0.2:80]"},
		"protocols":              {ports: []network.PortMapping{m("tcp", "", 80), m("udp", "", 80), m("sctp", "", 80)}, want: "map[80/sctp:10.42.0.2:80 80/tcp:10.42.0.2:80 80/udp:10.42.0.2:80]"},
		"twice":                  {ports: []network.PortMapping{m("tcp", "", 80), m("tcp", "0.0.0.0", 80)}, err: "twice"},
		"protocol":               {ports: []network.PortMapping{m("TCP", "", 80)}, err: `protocol "TCP"`},
		"IPv6":                   {ports: []network.PortMapping{m("tcp", "fd00::1", 80)}, err: "hostIP fd00::1"},
		"container port":         {ports: []network.PortMapping{{Protocol: "tcp", HostPort: 80}}, err: "containerPort is missing"},
	} {
		got, err := publishedPorts(Entry{IP: ip, Ports: tc.ports})
		if tc.err != "" {
			if err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: %v, want %q", name, err, tc.err)
			}
			continue
		}
		texts := map[string]netip.AddrPort{}
		for h, to := range got {
			texts[h.String()] = to
		}
		if text := fmt.Sprint(texts); err != nil || text != tc.want {
			t.Errorf("%s: %s, %v, want %s", name, text, err, tc.want)
		}
	}
}

func TestClaims(t *testing.T) {
	table := &Table{entries: map[string]Entry{}, taken: map[hostPort]string{}}
	entry := func(key string, ports ...uint16) Entry {
		e := Entry{Key: key, IP: netip.MustParseAddr("10.42.0.2")}
		for _, p := range ports {
			e.Ports = append(e.Ports, network.PortMapping{Protocol: "tcp", HostPort: p, ContainerPort: 80})
		}
		return e
	}
	for _, step := range []struct {
		claim Entry
		drop  string
		taken bool
	}{
		{claim: entry("a", 80, 81)},
		{claim: entry("b", 82, 80), taken: true},
		{claim: entry("b", 82)},
		{claim: entry("a", 81, 83)}, // replaces: 80 is free
		{claim: entry("c", 80)},
		{drop: "a"},
		{claim: entry("d", 81, 83)},
	} {
		if step.drop != "" {
			table.unclaim(step.drop)
			continue
		}
		if err := table.claim(step.claim); errors.Is(err, ErrPortTaken) != step.taken {
			t.Errorf("%+v: %v", step.claim, err)
		}
	}
	if len(table.taken) != 4 || len(table.entries) != 3 {
		t.Errorf("taken %v", table.taken)
	}
}

func TestRecords(t *testing.T) {
	dir := t.TempDir()
	e := Entry{Key: "id/eth0", IP: netip.MustParseAddr("10.42.0.2"), Masquerade: []netip.Prefix{netip.MustParsePrefix("10.66.0.0/24")},
		Ports: []network.PortMapping{{Protocol: "tcp", HostPort: 80, ContainerPort: 8080, HostIP: netip.MustParseAddr("192.0.2.1")}, {Protocol: "udp", HostPort: 81, ContainerPort: 81}}}
	if err := writeRecord(dir, e); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"torn.json": `{"key":`, "half.json.new": "{}", "other.json": `{"key":"x"}`} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := readRecords(dir)
	if err != nil || fmt.Sprint(got) != fmt.Sprint([]Entry{e}) {
		t.Errorf("read %v, %v", got, err)
	}
	if files, _ := os.ReadDir(dir); len(files) != 1 {
		t.Errorf("what is broken stays: %v", files)
	}
	for range 2 {
		if err := removeRecord(dir, e.Key); err != nil {
			t.Error(err)
		}
	}
}
