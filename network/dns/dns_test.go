package dns

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCorefile(t *testing.T) {
	c := Config{Kubeconfig: "/k", ClusterDomain: "cluster.local", Listen: []netip.Addr{netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("10.43.0.10")}, Port: 53}
	got := Corefile(c, []string{"192.0.2.53"})
	for _, want := range []string{".:53 {", "bind 169.254.20.10 10.43.0.10", "kubernetes cluster.local in-addr.arpa ip6.arpa", "kubeconfig /k", "forward . 192.0.2.53"} {
		if !strings.Contains(got, want) {
			t.Errorf("misses %q:\n%s", want, got)
		}
	}
	if strings.Contains(Corefile(c, nil), "forward") {
		t.Error("forwards without name servers")
	}
}

func TestNameservers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(file, []byte("# x\nsearch a.b\nnameserver 192.0.2.1\nnameserver\nnameserver bogus\nnameserver 2001:db8::1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := nameservers(file)
	if err != nil || strings.Join(got, " ") != "192.0.2.1 2001:db8::1" {
		t.Fatal(got, err)
	}
	if got, err := nameservers(file + ".none"); err != nil || got != nil {
		t.Fatal(got, err)
	}
}

func TestConfigNamesWhatIsMissing(t *testing.T) {
	if err := Run(t.Context(), Config{}, nil); err == nil {
		t.Fatal("accepted")
	}
}
