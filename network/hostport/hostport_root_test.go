//go:build root

package hostport

import (
	"errors"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/network"
	"github.com/skiff-node/skiff/network/networktest"
)

func TestMain(m *testing.M) { os.Exit(networktest.Isolate(m.Run)) }

func ruleset(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}

func config(t *testing.T) Config {
	t.Cleanup(func() {
		if err := Remove("test-net"); err != nil {
			t.Error(err)
		}
	})
	return Config{Name: "test-net", Dir: filepath.Join(t.TempDir(), "ports"), Services: "svc",
		Ranges: Ranges{Sources: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}, Direct: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/16")}}}
}

func published(key, ip string, ports ...uint16) Entry {
	e := Entry{Key: key, IP: netip.MustParseAddr(ip)}
	for _, p := range ports {
		e.Ports = append(e.Ports, network.PortMapping{Protocol: "tcp", HostPort: p, ContainerPort: 80})
	}
	return e
}

// TestElementsComeAndGo checks that what is added by elements is what a new process makes from the records, and
// that nothing stays.
func TestElementsComeAndGo(t *testing.T) {
	cfg := config(t)
	table, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	empty := ruleset(t)
	masq := published("c/eth0/bridge", "10.66.0.2")
	masq.Masquerade = []netip.Prefix{netip.MustParsePrefix("10.66.0.0/24")}
	for _, e := range []Entry{published("a/eth0", "10.42.0.2", 80, 81), published("b/eth0", "10.42.0.3", 82), masq} {
		if err := table.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	if err := table.Add(published("d/eth0", "10.42.0.4", 83, 82)); !errors.Is(err, ErrPortTaken) {
		t.Errorf("a taken port: %v", err)
	}
	full := ruleset(t)
	for _, want := range []string{"tcp . 80 : 10.42.0.2 . 80", "tcp . 82 : 10.42.0.3 . 80", "10.66.0.0/24"} {
		if !strings.Contains(full, want) {
			t.Errorf("no %q in %s", want, full)
		}
	}
	table, err = Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if again := ruleset(t); again != full {
		t.Errorf("before:\n%s\nmade anew:\n%s", full, again)
	}
	if err := table.Retain(func(key string) bool { return key == "b/eth0" }); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := table.Delete("b/eth0"); err != nil {
			t.Fatal(err)
		}
	}
	if end := ruleset(t); end != empty {
		t.Errorf("at first:\n%s\nat last:\n%s", empty, end)
	}
}

// TestTableRemovedByOthers is what a reload of the host's firewall does.
func TestTableRemovedByOthers(t *testing.T) {
	table, err := Open(config(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Add(published("a/eth0", "10.42.0.2", 80)); err != nil {
		t.Fatal(err)
	}
	whole := ruleset(t)
	for name, next := range map[string]func() error{
		"add": func() error {
			return errors.Join(table.Add(published("b/eth0", "10.42.0.3", 81)), table.Delete("b/eth0"))
		},
		"retain": func() error { return table.Retain(func(string) bool { return true }) },
	} {
		if out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if err := next(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := ruleset(t); got != whole {
			t.Errorf("after %s:\n%s\nwant:\n%s", name, got, whole)
		}
	}
	if err := table.Delete("a/eth0"); err != nil {
		t.Fatal(err)
	}
}
