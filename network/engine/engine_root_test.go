//go:build root

package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/network"
	"github.com/skiff-node/skiff/network/engine/plugins"
	"github.com/skiff-node/skiff/network/netns"
	"github.com/skiff-node/skiff/network/networktest"
	"github.com/skiff-node/skiff/network/veth"
)

func TestMain(m *testing.M) { os.Exit(networktest.Isolate(m.Run)) }

func prefixes(texts ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, t := range texts {
		all = append(all, netip.MustParsePrefix(t))
	}
	return all
}

// testConfig is a node 10.42.0.0/24 of a cluster.
func testConfig(t testing.TB) Config {
	dir := t.TempDir()
	return Config{
		RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "lib"),
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{filepath.Join(dir, "bin")},
		PodCIDRs: prefixes("10.42.0.0/24"), ClusterCIDRs: prefixes("10.42.0.0/16"), ServiceCIDRs: prefixes("10.43.0.0/16"),
		LocalAddresses: []netip.Addr{netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("10.43.0.10")},
		Log:            slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
}

func start(t testing.TB, cfg Config) *Engine {
	t.Helper()
	e, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Setup(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Teardown(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return e
}

type pod struct {
	network.Sandbox
	ip netip.Addr
}

func attach(t testing.TB, e *Engine, id string, ports ...network.PortMapping) pod {
	t.Helper()
	path, err := e.NewNamespace(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	s := network.Sandbox{ID: id, Name: "pod-" + id, Namespace: "default", UID: "uid-" + id, NetNS: path, PortMappings: ports}
	r, err := e.Attach(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.IPs) != 1 || r.Interface != "eth0" || r.MAC == "" {
		t.Fatalf("result %+v", r)
	}
	return pod{Sandbox: s, ip: r.IPs[0]}
}

func detach(t testing.TB, e *Engine, p pod) {
	t.Helper()
	if err := e.Detach(t.Context(), p.Sandbox); err != nil {
		t.Error(err)
	}
	if err := e.RemoveNamespace(t.Context(), p.NetNS); err != nil {
		t.Error(err)
	}
}

// in runs fn in the namespace; "" is the host's.
func in(t testing.TB, ns string, fn func() error) {
	t.Helper()
	do := func() error { return fn() }
	if ns != "" {
		do = func() error { return netns.Do(ns, fn) }
	}
	if err := do(); err != nil {
		t.Fatal(err)
	}
}

// serve answers each TCP connection and UDP packet to port in ns with the address it came from.
func serve(t testing.TB, ns string, port int) {
	t.Helper()
	var l net.Listener
	var u net.PacketConn
	in(t, ns, func() (err error) {
		if l, err = net.Listen("tcp4", fmt.Sprintf(":%d", port)); err != nil {
			return err
		}
		u, err = net.ListenPacket("udp4", fmt.Sprintf(":%d", port))
		return err
	})
	t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
			io.WriteString(c, host)
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			host, _, _ := net.SplitHostPort(from.String())
			u.WriteTo([]byte(host), from)
		}
	}()
}

// ask connects from ns and returns what the server saw as the source.
func ask(ns, proto, addr string) (source string, err error) {
	fn := func() error {
		c, err := net.DialTimeout(proto, addr, 2*time.Second)
		if err != nil {
			return err
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if proto == "udp4" {
			c.Write([]byte("?"))
		}
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		source = string(buf[:n])
		return err
	}
	if ns == "" {
		return source, fn()
	}
	err = netns.Do(ns, fn)
	return source, err
}

func mustAsk(t testing.TB, ns, proto, addr, wantSource string) {
	t.Helper()
	got, err := ask(ns, proto, addr)
	if err != nil {
		t.Errorf("%s %s from %q: %v", proto, addr, filepath.Base(ns), err)
	} else if wantSource != "" && got != wantSource {
		t.Errorf("%s %s from %q came from %s, want %s", proto, addr, filepath.Base(ns), got, wantSource)
	}
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// host is everything of the network and its mounts that a test could leave behind.
func host(t testing.TB) string {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	forward, _ := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	redirects, _ := os.ReadFile("/proc/sys/net/ipv4/conf/all/send_redirects")
	return run(t, "ip", "-br", "link") + run(t, "ip", "addr") + run(t, "ip", "route", "show", "table", "all") +
		run(t, "ip", "neigh", "show", "nud", "permanent") + run(t, "nft", "list", "ruleset") + string(mounts) + string(forward) + string(redirects)
}

// same reports each line that only one of the two has.
func same(t testing.TB, before, after string) {
	t.Helper()
	count := map[string]int{}
	for _, line := range strings.Split(before, "\n") {
		count[line]++
	}
	for _, line := range strings.Split(after, "\n") {
		count[line]--
	}
	for line, n := range count {
		if n > 0 {
			t.Errorf("gone: %s", line)
		} else if n < 0 {
			t.Errorf("new: %s", line)
		}
	}
}

func TestPodsReachEachOtherThroughTheHost(t *testing.T) {
	before := host(t)
	t.Run("pods", func(t *testing.T) {
		e := start(t, testConfig(t))
		if err := e.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		a, b := attach(t, e, "aaaa"), attach(t, e, "bbbb")
		serve(t, a.NetNS, 80)
		serve(t, b.NetNS, 80)
		serve(t, "", 90)
		mustAsk(t, a.NetNS, "tcp4", b.ip.String()+":80", a.ip.String())
		mustAsk(t, b.NetNS, "udp4", a.ip.String()+":80", b.ip.String())
		mustAsk(t, a.NetNS, "tcp4", a.ip.String()+":80", a.ip.String())
		mustAsk(t, a.NetNS, "tcp4", "127.0.0.1:80", "127.0.0.1")
		mustAsk(t, a.NetNS, "tcp4", "10.42.0.1:90", a.ip.String())
		mustAsk(t, a.NetNS, "tcp4", "10.43.0.10:90", a.ip.String())
		mustAsk(t, "", "tcp4", a.ip.String()+":80", "10.42.0.1")
		in(t, a.NetNS, func() error {
			if out, err := exec.Command("ip", "-o", "addr", "show", "eth0").CombinedOutput(); err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		detach(t, e, a)
		detach(t, e, b)
	})
	same(t, before, host(t))
}

func BenchmarkAttachDetach(b *testing.B) {
	e := start(b, testConfig(b))
	var create, attach, detach, remove time.Duration
	lap := func(total *time.Duration, start time.Time) time.Time {
		now := time.Now()
		*total += now.Sub(start)
		return now
	}
	for i := range b.N {
		now := time.Now()
		id := fmt.Sprintf("pod%d", i)
		path, err := e.NewNamespace(b.Context(), id)
		if err != nil {
			b.Fatal(err)
		}
		now = lap(&create, now)
		s := network.Sandbox{ID: id, NetNS: path}
		if _, err := e.Attach(b.Context(), s); err != nil {
			b.Fatal(err)
		}
		now = lap(&attach, now)
		if err := e.Detach(b.Context(), s); err != nil {
			b.Fatal(err)
		}
		now = lap(&detach, now)
		if err := e.RemoveNamespace(b.Context(), path); err != nil {
			b.Fatal(err)
		}
		lap(&remove, now)
	}
	for name, d := range map[string]time.Duration{"create": create, "attach": attach, "detach": detach, "remove": remove} {
		b.ReportMetric(float64(d.Microseconds())/1000/float64(b.N), name+"-ms/op")
	}
}

func TestEngineKeepsTheContract(t *testing.T) {
	networktest.Suite(t, func(t *testing.T, cidrs []netip.Prefix) network.Service {
		cfg := testConfig(t)
		cfg.PodCIDRs, cfg.ClusterCIDRs = cidrs, nil
		return start(t, cfg)
	})
}

// outside is another host: a namespace that is linked to this one by 192.0.2.1 (here) and 192.0.2.2 (there).
func outside(t testing.TB) (ns string) {
	t.Helper()
	ns, err := netns.Create(t.TempDir(), "outside")
	if err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "link", "add", "uplink", "type", "veth", "peer", "name", "uplink", "netns", ns)
	write(t, "/proc/sys/net/ipv6/conf/uplink/disable_ipv6", "1", 0o644)
	run(t, "ip", "addr", "add", "192.0.2.1/24", "dev", "uplink")
	run(t, "ip", "addr", "add", "192.0.2.9/24", "dev", "uplink")
	run(t, "ip", "link", "set", "uplink", "up")
	run(t, "ip", "route", "add", "default", "via", "192.0.2.2")
	in(t, ns, func() error {
		for _, args := range [][]string{{"addr", "add", "192.0.2.2/24", "dev", "uplink"}, {"link", "set", "uplink", "up"}} {
			if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
				return fmt.Errorf("ip %v: %w: %s", args, err, out)
			}
		}
		return nil
	})
	eventually(t, func() bool { return strings.Contains(run(t, "ip", "-br", "link", "show", "uplink"), " UP ") })
	t.Cleanup(func() {
		run(t, "ip", "link", "del", "uplink")
		if err := netns.Remove(ns); err != nil {
			t.Error(err)
		}
	})
	return ns
}

func publish(proto network.Protocol, ip string, hostPort, containerPort uint16) network.PortMapping {
	m := network.PortMapping{Protocol: proto, HostPort: hostPort, ContainerPort: containerPort}
	if ip != "" {
		m.HostIP = netip.MustParseAddr(ip)
	}
	return m
}

func TestPublishedPorts(t *testing.T) {
	far := outside(t)
	cfg := testConfig(t)
	cfg.NodeIP = netip.MustParseAddr("192.0.2.1")
	e := start(t, cfg)
	web := attach(t, e, "web", publish("tcp", "", 8080, 80), publish("udp", "", 8080, 80), publish("tcp", "192.0.2.9", 9090, 80))
	other := attach(t, e, "other", publish("tcp", "192.0.2.1", 9090, 80), publish("tcp", "", 8081, 80))
	for _, p := range []pod{web, other} {
		serve(t, p.NetNS, 80)
		defer detach(t, e, p)
	}
	mustAsk(t, far, "tcp4", "192.0.2.1:8080", "192.0.2.2")
	mustAsk(t, far, "udp4", "192.0.2.1:8080", "192.0.2.2")
	mustAsk(t, far, "tcp4", "192.0.2.9:8080", "192.0.2.2")
	mustAsk(t, other.NetNS, "tcp4", "192.0.2.1:8080", other.ip.String())
	mustAsk(t, other.NetNS, "udp4", "10.42.0.1:8080", other.ip.String())
	mustAsk(t, web.NetNS, "tcp4", "192.0.2.1:8080", "192.0.2.1") // its own port
	mustAsk(t, web.NetNS, "udp4", "192.0.2.1:8080", "192.0.2.1")
	mustAsk(t, "", "tcp4", "127.0.0.1:8080", "192.0.2.1")
	mustAsk(t, "", "tcp4", "192.0.2.1:8080", "")
	if _, err := ask(far, "tcp4", "192.0.2.1:8082"); err == nil {
		t.Error("a port that is not published answers")
	}
	mustAsk(t, far, "tcp4", "192.0.2.9:9090", "192.0.2.2")
	mustAsk(t, far, "tcp4", "192.0.2.1:9090", "192.0.2.2")
}

func TestMasqueradeAndStrays(t *testing.T) {
	far := outside(t)
	cfg := testConfig(t)
	cfg.NodeIP = netip.MustParseAddr("192.0.2.1")
	e := start(t, cfg)
	p := attach(t, e, "pod")
	defer detach(t, e, p)
	serve(t, far, 80)
	mustAsk(t, p.NetNS, "tcp4", "192.0.2.2:80", "192.0.2.1")
	mustAsk(t, p.NetNS, "udp4", "192.0.2.2:80", "192.0.2.1")

	in(t, far, func() error {
		cmd := exec.Command("nft", "add table ip seen; add chain ip seen in { type filter hook prerouting priority -400; }; "+
			"add rule ip seen in ip daddr { 10.42.0.0/16, 10.43.0.0/16 } counter; add rule ip seen in ip saddr 10.42.0.0/16 counter")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	for _, from := range []string{"", p.NetNS} {
		for _, addr := range []string{"10.42.0.77:80", "10.42.9.9:80", "10.43.0.77:80"} {
			start := time.Now()
			if _, err := ask(from, "tcp4", addr); err == nil {
				t.Errorf("%s answers", addr)
			} else {
				t.Logf("%s from %q after %v: %v", addr, filepath.Base(from), time.Since(start), err)
			}
		}
	}
	mustAsk(t, p.NetNS, "tcp4", "192.0.2.2:80", "192.0.2.1")
	in(t, far, func() error {
		out, err := exec.Command("nft", "list", "table", "ip", "seen").Output()
		if n := strings.Count(string(out), "counter packets 0 bytes 0"); n != 2 {
			t.Errorf("packets for or from the cluster's ranges left the node:\n%s", out)
		}
		return err
	})
}

// TestKilledBetweenSteps leaves what a process leaves that is killed after each step of Attach and Detach, and lets
// Retain of the next process repair it.
func TestKilledBetweenSteps(t *testing.T) {
	before := host(t)
	t.Run("node", func(t *testing.T) {
		cfg := testConfig(t)
		e := start(t, cfg)
		base := host(t)
		live := attach(t, e, "live", publish("tcp", "", 8080, 80))
		serve(t, live.NetNS, 80)
		eventually(t, func() bool { return carriers(t) }) // the kernel shows them a moment after they are there
		withLive := host(t)

		if _, err := e.NewNamespace(t.Context(), "only-namespace"); err != nil {
			t.Fatal(err)
		}
		if _, err := e.up.addresses.Allocate(plugins.Key("only-address", "eth0")); err != nil {
			t.Fatal(err)
		}
		attach(t, e, "attached", publish("tcp", "", 8081, 80))
		noRecord := attach(t, e, "no-record", publish("udp", "", 8081, 80))
		if err := os.RemoveAll(filepath.Join(cfg.cniDir(), "results")); err != nil {
			t.Fatal(err)
		}
		detached := attach(t, e, "detached")
		if err := e.Detach(t.Context(), detached.Sandbox); err != nil {
			t.Fatal(err)
		}
		halfway := attach(t, e, "halfway", publish("tcp", "", 8083, 80))
		if err := e.up.ports.Delete(plugins.Key(halfway.ID, "eth0")); err != nil {
			t.Fatal(err)
		}
		nsGone := attach(t, e, "namespace-gone")
		if err := e.RemoveNamespace(t.Context(), nsGone.NetNS); err != nil {
			t.Fatal(err)
		}
		e.Close() // a killed process lets go of its lock and sockets the same way

		e = start(t, cfg)
		if err := e.Retain(t.Context(), []string{live.ID}); err != nil {
			t.Fatal(err)
		}
		same(t, withLive, host(t))
		if held := e.up.addresses.Holders(); len(held) != 1 {
			t.Errorf("addresses held: %v", held)
		}
		mustAsk(t, "", "tcp4", "127.0.0.1:8080", "")
		again := attach(t, e, noRecord.ID, publish("udp", "", 8081, 80))
		detach(t, e, again)
		detach(t, e, live)
		eventually(t, func() bool { return host(t) == base })
	})
	same(t, before, host(t))
}

// carriers says whether every host end is shown with a carrier.
func carriers(t testing.TB) bool {
	t.Helper()
	for line := range strings.Lines(host(t)) {
		if strings.Contains(line, veth.Prefix) && strings.Contains(line, "NO-CARRIER") {
			return false
		}
	}
	return true
}

// eventually waits until the condition holds, for what the kernel or the sweeper does beside the caller.
func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatal("not within ten seconds")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestRangesOutliveTheProcess(t *testing.T) {
	cfg := testConfig(t)
	cfg.PodCIDRs = nil // the cluster has ranges, the node waits for its own
	e := start(t, cfg)
	if err := e.Status(t.Context()); !errors.Is(err, network.ErrNotReady) || !strings.Contains(err.Error(), "no pod range") {
		t.Fatalf("without a range: %v", err)
	}
	ns, err := e.NewNamespace(t.Context(), "early")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Attach(t.Context(), network.Sandbox{ID: "early", NetNS: ns}); !errors.Is(err, network.ErrNotReady) {
		t.Errorf("attach: %v", err)
	}
	if err := e.SetPodCIDRs(t.Context(), prefixes("10.42.7.0/24", "fd00:7::/64")); err != nil {
		t.Fatal(err)
	}
	old := attach(t, e, "old")
	serve(t, old.NetNS, 80)
	if err := e.SetPodCIDRs(t.Context(), prefixes("10.42.8.0/24")); err != nil {
		t.Fatal(err)
	}
	e.Close()
	e = start(t, cfg) // the kubelet has not announced them again
	fresh := attach(t, e, "fresh")
	if old.ip.String() != "10.42.7.2" || fresh.ip.String() != "10.42.8.2" {
		t.Errorf("addresses %s, then %s", old.ip, fresh.ip)
	}
	mustAsk(t, fresh.NetNS, "tcp4", "10.42.7.2:80", "10.42.8.2")
	mustAsk(t, "", "tcp4", "10.42.7.2:80", "10.42.7.1")
	detach(t, e, old)
	if err := e.Retain(t.Context(), []string{"fresh"}); err != nil {
		t.Fatal(err)
	}
	if addrs := run(t, "ip", "-br", "addr", "show", "skiff0"); strings.Contains(addrs, "10.42.7.1") || !strings.Contains(addrs, "10.42.8.1") {
		t.Errorf("the former gateway stays: %s", addrs)
	}
	for text, cidrs := range map[string][]netip.Prefix{"no IPv4 range": prefixes("fd00::/64"), "too small": prefixes("10.42.7.0/31")} {
		if err := e.SetPodCIDRs(t.Context(), cidrs); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v: %v", cidrs, err)
		}
	}
}

func TestBadConfigurations(t *testing.T) {
	for want, change := range map[string]func(*Config){
		`RunDir "" is not an absolute path`:              func(c *Config) { c.RunDir = "" },
		"did you mean 10.42.0.0/24":                      func(c *Config) { c.PodCIDRs = prefixes("10.42.0.7/24") },
		"192.0.2.77 is not an address of this host":      func(c *Config) { c.NodeIP = netip.MustParseAddr("192.0.2.77") },
		"an interface of that name exists and is a veth": func(c *Config) { c.Interface = "taken" },
	} {
		t.Run(want, func(t *testing.T) {
			run(t, "ip", "link", "add", "taken", "type", "veth", "peer", "name", "peer")
			defer run(t, "ip", "link", "del", "taken")
			cfg := testConfig(t)
			change(&cfg)
			e, err := New(cfg)
			if err == nil {
				err = e.Setup(t.Context())
			}
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
			if e != nil {
				cfg := testConfig(t)
				cfg.RunDir, cfg.StateDir = e.cfg.RunDir, e.cfg.StateDir
				start(t, cfg)
			}
		})
	}
}

// TestManyAtOnce starts and stops sandboxes from many goroutines, and kills none of another's.
func TestManyAtOnce(t *testing.T) {
	before := host(t)
	t.Run("node", func(t *testing.T) {
		e := start(t, testConfig(t))
		idle := host(t)
		const workers, rounds = 8, 4
		errs := make(chan error)
		for w := range workers {
			go func() {
				for r := range rounds {
					if err := cycle(t.Context(), e, fmt.Sprintf("w%dr%d", w, r), uint16(9000+w)); err != nil {
						errs <- err
						return
					}
				}
				errs <- nil
			}()
		}
		for range workers {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
		eventually(t, func() bool { return host(t) == idle })
	})
	same(t, before, host(t))
}

// cycle attaches a sandbox, asks it through its published port, and detaches it.
func cycle(ctx context.Context, e *Engine, id string, port uint16) error {
	ns, err := e.NewNamespace(ctx, id)
	if err != nil {
		return err
	}
	s := network.Sandbox{ID: id, NetNS: ns, PortMappings: []network.PortMapping{publish("tcp", "", port, 80)}}
	if _, err := e.Attach(ctx, s); err != nil {
		return err
	}
	var l net.Listener
	if err := netns.Do(ns, func() (err error) { l, err = net.Listen("tcp4", ":80"); return err }); err != nil {
		return err
	}
	go func() {
		if c, err := l.Accept(); err == nil {
			io.WriteString(c, id)
			c.Close()
		}
	}()
	answer, err := ask("", "tcp4", fmt.Sprintf("127.0.0.1:%d", port))
	l.Close()
	if err == nil && answer != id {
		err = fmt.Errorf("%s answered instead", answer)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", id, err)
	}
	return errors.Join(e.Detach(ctx, s), e.RemoveNamespace(ctx, ns))
}

// TestUDPFlowsFollow keeps one socket of a client open while the sandbox behind the port comes and goes: the
// kernel must forget where its packets went before.
func TestUDPFlowsFollow(t *testing.T) {
	far := outside(t)
	cfg := testConfig(t)
	cfg.NodeIP = netip.MustParseAddr("192.0.2.1")
	e := start(t, cfg)
	var client net.PacketConn
	in(t, far, func() (err error) { client, err = net.ListenPacket("udp4", "192.0.2.2:5353"); return err })
	defer client.Close()
	to := &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 5353}
	answered := func() bool {
		if _, err := client.WriteTo([]byte("?"), to); err != nil {
			t.Fatal(err)
		}
		client.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		_, _, err := client.ReadFrom(make([]byte, 100))
		return err == nil
	}
	if answered() {
		t.Fatal("nobody can answer yet")
	}
	for _, id := range []string{"first", "second"} {
		p := attach(t, e, id, publish("udp", "", 5353, 53))
		serve(t, p.NetNS, 53)
		eventually(t, answered)
		detach(t, e, p)
	}
	if answered() {
		t.Error("a sandbox that is gone answers")
	}
}

// TestServicesAreRewritten stands in for a proxy with two nftables rules, and sees that packets to services get as
// far as netfilter from everywhere, and come back.
func TestServicesAreRewritten(t *testing.T) {
	outside(t)
	cfg := testConfig(t)
	cfg.NodeIP = netip.MustParseAddr("192.0.2.1")
	e := start(t, cfg)
	server, client := attach(t, e, "server"), attach(t, e, "client")
	defer detach(t, e, server)
	defer detach(t, e, client)
	serve(t, server.NetNS, 8080)
	run(t, "nft", "add table ip proxy; "+
		"add chain ip proxy pre { type nat hook prerouting priority dstnat; }; add chain ip proxy out { type nat hook output priority -100; }; "+
		"add chain ip proxy post { type nat hook postrouting priority srcnat; }; "+
		"add rule ip proxy pre ip daddr 10.43.0.1 tcp dport 80 dnat to "+server.ip.String()+":8080; "+
		"add rule ip proxy out ip daddr 10.43.0.1 tcp dport 80 dnat to "+server.ip.String()+":8080; "+
		"add rule ip proxy post ip saddr "+server.ip.String()+" ip daddr "+server.ip.String()+" masquerade")
	defer run(t, "nft", "delete table ip proxy")
	mustAsk(t, client.NetNS, "tcp4", "10.43.0.1:80", client.ip.String())
	mustAsk(t, "", "tcp4", "10.43.0.1:80", "192.0.2.1")
	mustAsk(t, server.NetNS, "tcp4", "10.43.0.1:80", "192.0.2.1") // itself, through the service
}
