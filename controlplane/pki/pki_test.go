package pki

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func config(t *testing.T) Config {
	t.Helper()
	return Config{
		Dir:          filepath.Join(t.TempDir(), "pki"),
		NodeName:     "node-a",
		NodeIPs:      []netip.Addr{netip.MustParseAddr("192.0.2.10")},
		ServiceIP:    netip.MustParseAddr("10.43.0.1"),
		Hostnames:    []string{"API.example.org", "198.51.100.7"},
		APIServerURL: "https://127.0.0.1:6443",
	}
}

func ensure(t *testing.T, c Config) Paths {
	t.Helper()
	p, err := Ensure(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// contents maps each file of the directory to what it holds.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(data)
	}
	return out
}

func changed(before, after map[string]string) []string {
	var names []string
	for name, data := range after {
		if before[name] != data {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func TestEnsureMakesAWorkingSet(t *testing.T) {
	p := ensure(t, config(t))
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(p.CA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	pool.AppendCertsFromPEM(ca)

	serving, err := readCert(p.APIServer.Cert)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "localhost", "node-a", "api.example.org",
		"127.0.0.1", "::1", "192.0.2.10", "10.43.0.1", "198.51.100.7"} {
		if _, err := serving.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Errorf("API server as %s: %v", name, err)
		}
	}
	for _, tc := range []struct {
		pair  Pair
		user  string
		group string
	}{
		{p.Kubelet, "system:node:node-a", "system:nodes"},
		{p.Admin, "kubernetes-admin", "system:masters"},
		{p.Proxy, "system:kube-proxy", ""},
		{p.DNS, DNSUser, ""},
	} {
		cert, err := readCert(tc.pair.Cert)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
			t.Errorf("%s: %v", tc.user, err)
		}
		if cert.Subject.CommonName != tc.user || (tc.group != "" && !slices.Equal(cert.Subject.Organization, []string{tc.group})) {
			t.Errorf("subject %v, want %s in %q", cert.Subject, tc.user, tc.group)
		}
	}
	front, err := readCert(p.FrontProxyClient.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := front.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("the front proxy client is signed by the cluster's authority; requests could then claim any user")
	}
	for name := range contents(t, p.Dir) {
		info, err := os.Stat(filepath.Join(p.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if secret := strings.HasSuffix(name, ".key") || strings.HasSuffix(name, ".kubeconfig"); secret && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", name, info.Mode())
		}
	}
	for _, file := range []string{p.Kubeconfigs.Admin, p.Kubeconfigs.Kubelet, p.Kubeconfigs.DNS} {
		rest, err := clientcmd.BuildConfigFromFlags("", file)
		if err != nil {
			t.Fatal(err)
		}
		if rest.Host != "https://127.0.0.1:6443" {
			t.Errorf("%s points to %s", file, rest.Host)
		}
	}
}

func TestEnsureReplacesOnlyWhatMust(t *testing.T) {
	day := 24 * time.Hour
	everyLeaf := []string{"admin.crt", "admin.kubeconfig", "apiserver-kubelet-client.crt", "apiserver.crt",
		"controller-manager.crt", "dns.crt", "front-proxy-client.crt", "kubelet-serving.crt", "kubelet.crt", "proxy.crt", "scheduler.crt"}
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, c *Config, dir string)
		want   []string
	}{
		{"nothing", func(*testing.T, *Config, string) {}, nil},
		{"half a year later", func(_ *testing.T, c *Config, _ string) { later(c, 183*day) }, nil},
		{"less than a third of the life left", func(_ *testing.T, c *Config, _ string) { later(c, 245*day) }, everyLeaf},
		{"long expired", func(_ *testing.T, c *Config, _ string) { later(c, 3*365*day) }, everyLeaf},
		{"clock set back", func(_ *testing.T, c *Config, _ string) { later(c, -365*day) },
			append(append(slices.Clone(everyLeaf[:4]), "ca.crt"), append([]string{"front-proxy-ca.crt"}, everyLeaf[4:]...)...)},
		{"node moved", func(_ *testing.T, c *Config, _ string) {
			c.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.11")}
		}, []string{"apiserver.crt", "kubelet-serving.crt"}},
		{"another service range", func(_ *testing.T, c *Config, _ string) { c.ServiceIP = netip.MustParseAddr("10.96.0.1") },
			[]string{"apiserver.crt"}},
		{"a name twice and in other case", func(_ *testing.T, c *Config, _ string) { c.Hostnames = append(c.Hostnames, "api.EXAMPLE.org") }, nil},
		{"node renamed", func(_ *testing.T, c *Config, _ string) { c.NodeName = "node-b" },
			[]string{"apiserver.crt", "kubelet-serving.crt", "kubelet.crt", "kubelet.kubeconfig"}},
		{"another API address", func(_ *testing.T, c *Config, _ string) { c.APIServerURL = "https://192.0.2.10:6443" },
			[]string{"admin.kubeconfig", "controller-manager.kubeconfig", "dns.kubeconfig", "kubelet.kubeconfig", "proxy.kubeconfig", "scheduler.kubeconfig"}},
		{"killed between key and certificate", remove("proxy.crt"), []string{"proxy.crt"}},
		{"key deleted", remove("proxy.key"), []string{"proxy.crt", "proxy.key"}},
		{"torn certificate", truncate("kubelet.crt"), []string{"kubelet.crt"}},
		{"torn key", truncate("kubelet.key"), []string{"kubelet.crt", "kubelet.key"}},
		{"torn kubeconfig", truncate("dns.kubeconfig"), []string{"dns.kubeconfig"}},
		{"authority's certificate lost", remove("ca.crt"), []string{"admin.kubeconfig", "ca.crt"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := config(t)
			start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)
			c.Now = func() time.Time { return start }
			p := ensure(t, c)
			tc.change(t, &c, p.Dir)
			before := contents(t, p.Dir)
			ensure(t, c)
			want := slices.Clone(tc.want)
			slices.Sort(want)
			if got := changed(before, contents(t, p.Dir)); !slices.Equal(got, want) {
				t.Errorf("changed\n %v, want\n %v", got, want)
			}
			again := contents(t, p.Dir)
			ensure(t, c)
			if got := changed(again, contents(t, p.Dir)); got != nil {
				t.Errorf("not settled, changed again %v", got)
			}
			if _, err := tls.LoadX509KeyPair(p.Proxy.Cert, p.Proxy.Key); err != nil {
				t.Error(err)
			}
		})
	}
}

func later(c *Config, d time.Duration) {
	now := c.Now().Add(d)
	c.Now = func() time.Time { return now }
}

func remove(name string) func(*testing.T, *Config, string) {
	return func(t *testing.T, _ *Config, dir string) {
		t.Helper()
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
}

func truncate(name string) func(*testing.T, *Config, string) {
	return func(t *testing.T, _ *Config, dir string) {
		t.Helper()
		if err := os.Truncate(filepath.Join(dir, name), 40); err != nil {
			t.Fatal(err)
		}
	}
}

// A leaf of before the authority's renewal is still good after it, as the key and its id stay.
func TestAuthorityRenewalKeepsLeavesValid(t *testing.T) {
	c := config(t)
	p := ensure(t, c)
	leaf, err := readCert(p.Kubelet.Cert)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(p.CA.Cert); err != nil {
		t.Fatal(err)
	}
	ensure(t, c)
	ca, err := readCert(p.CA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Error(err)
	}
}

func TestEnsureRefuses(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, c *Config, dir string)
		want   string
	}{
		{"no directory", func(_ *testing.T, c *Config, _ string) { c.Dir = "" }, "Dir"},
		{"relative directory", func(_ *testing.T, c *Config, _ string) { c.Dir = "pki" }, "absolute"},
		{"no node name", func(_ *testing.T, c *Config, _ string) { c.NodeName = "" }, "NodeName"},
		{"no URL", func(_ *testing.T, c *Config, _ string) { c.APIServerURL = "" }, "APIServerURL"},
		{"torn authority key", truncate("ca.key"), "restore"},
		{"torn token key", truncate("sa.key"), "restore"},
		{"torn authority certificate", truncate("ca.crt"), "restore"},
		{"authority of another key", func(t *testing.T, _ *Config, dir string) {
			other := ensure(t, config(t))
			data, err := os.ReadFile(other.CA.Key)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "ca.key"), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "does not belong"},
		{"key of the authority is kept elsewhere and a certificate is due", func(t *testing.T, c *Config, dir string) {
			remove("ca.key")(t, c, dir)
			remove("proxy.crt")(t, c, dir)
		}, "proxy.crt: a new certificate is needed"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := config(t)
			dir := ensure(t, c).Dir
			tc.change(t, &c, dir)
			before := contents(t, dir)
			_, err := Ensure(c)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one about %q", err, tc.want)
			}
			if got := changed(before, contents(t, dir)); got != nil {
				t.Errorf("and yet wrote %v", got)
			}
		})
	}
}

func TestAuthorityKeyElsewhere(t *testing.T) {
	c := config(t)
	p := ensure(t, c)
	if err := os.Remove(p.CA.Key); err != nil {
		t.Fatal(err)
	}
	ensure(t, c)
}

func TestReloader(t *testing.T) {
	c := config(t)
	p := ensure(t, c)
	r, err := NewReloader(p.APIServer)
	if err != nil {
		t.Fatal(err)
	}
	current := func() string {
		t.Helper()
		cert, err := r.GetCertificate(nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(cert.Certificate[0])
	}
	first := current()
	c.Hostnames = append(c.Hostnames, "other.example.org")
	ensure(t, c)
	second := current()
	if first == second {
		t.Error("the renewed certificate is not served")
	}
	if err := os.Remove(p.APIServer.Cert); err != nil {
		t.Fatal(err)
	}
	if current() != second {
		t.Error("a lost file must not end the service")
	}
	if _, err := NewReloader(p.APIServer); err == nil {
		t.Error("a missing file at the start is an error")
	}
}

func TestRenewerRenews(t *testing.T) {
	c := config(t)
	now := time.Now()
	c.Now = func() time.Time { return now }
	p := ensure(t, c)
	before, err := readCert(p.Kubelet.Cert)
	if err != nil {
		t.Fatal(err)
	}
	renewed := c
	later(&renewed, 300*24*time.Hour)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- Renewer{Config: renewed, Every: time.Millisecond}.Run(ctx) }()
	deadline := time.Now().Add(10 * time.Second)
	for {
		if cert, err := readCert(p.Kubelet.Cert); err == nil && cert.NotAfter.After(before.NotAfter) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("not renewed")
		}
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
