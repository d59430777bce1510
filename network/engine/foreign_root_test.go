//go:build root

package engine

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/network"
)

func write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// referenceNetwork is what containerd's documentation tells operators to write, with one IPv4 range.
const referenceNetwork = `{
  "cniVersion": "1.0.0",
  "name": "containerd-net",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true,
      "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.66.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`

func TestReferencePluginsInProcess(t *testing.T) {
	far := outside(t)
	before := host(t)
	t.Run("node", func(t *testing.T) {
		cfg := testConfig(t)
		e := start(t, cfg)
		builtin := attach(t, e, "builtin")
		write(t, filepath.Join(cfg.ConfDir, "10-reference.conflist"), referenceNetwork, 0o600)
		if err := e.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		a, b := attach(t, e, "aaaa", publish("tcp", "", 8080, 80), publish("udp", "", 8080, 80)), attach(t, e, "bbbb")
		if a.ip.String() != "10.66.0.2" || b.ip.String() != "10.66.0.3" {
			t.Errorf("addresses %s and %s", a.ip, b.ip)
		}
		serve(t, a.NetNS, 80)
		serve(t, far, 80)
		serve(t, builtin.NetNS, 80)
		mustAsk(t, b.NetNS, "tcp4", "10.66.0.2:80", "10.66.0.3")
		mustAsk(t, "", "tcp4", "10.66.0.2:80", "10.66.0.1")
		mustAsk(t, b.NetNS, "tcp4", "192.0.2.2:80", "192.0.2.1")
		mustAsk(t, far, "tcp4", "192.0.2.1:8080", "192.0.2.2")
		mustAsk(t, far, "udp4", "192.0.2.1:8080", "192.0.2.2")
		mustAsk(t, "", "tcp4", "127.0.0.1:8080", "10.66.0.1")
		mustAsk(t, b.NetNS, "tcp4", builtin.ip.String()+":80", "")

		// A sandbox is detached with the network that it was attached with.
		detach(t, e, builtin)
		eventually(t, func() bool { return len(e.up.addresses.Holders()) == 0 })

		// The next process finds the same, and gives back what is not wanted.
		e.Close()
		e = start(t, cfg)
		if err := e.Retain(t.Context(), []string{a.ID}); err != nil {
			t.Fatal(err)
		}
		mustAsk(t, far, "tcp4", "192.0.2.1:8080", "192.0.2.2")
		c := attach(t, e, "cccc")
		if c.ip.String() != "10.66.0.4" {
			t.Errorf("address %s", c.ip)
		}
		if err := os.Remove(filepath.Join(cfg.ConfDir, "10-reference.conflist")); err != nil {
			t.Fatal(err)
		}
		detach(t, e, a)
		detach(t, e, c)
		if d := attach(t, e, "dddd"); !strings.HasPrefix(d.ip.String(), "10.42.0.") {
			t.Errorf("address %s after the configuration was removed", d.ip)
		}
	})
	same(t, before, host(t))
}

// script is a plugin executable. It gives every container the same address, and writes down how it was called.
const script = `#!/bin/sh
conf=$(cat)
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME $CNI_ARGS" >> LOG
case $CNI_COMMAND in
ADD) [ -e FAIL ] && { echo '{"cniVersion":"1.1.0","code":11,"msg":"try later"}'; exit 1; }
     echo '{"cniVersion":"1.1.0","interfaces":[{"name":"'$CNI_IFNAME'","mac":"02:00:00:00:00:01","sandbox":"'$CNI_NETNS'"}],"ips":[{"address":"10.77.0.9/24","interface":0}]}' ;;
STATUS) [ -e FAIL ] && { echo '{"cniVersion":"1.1.0","code":50,"msg":"agent is not up"}'; exit 1; } ;;
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.1.0"]}' ;;
esac
exit 0
`

func TestForeignPluginExecutable(t *testing.T) {
	cfg := testConfig(t)
	log, fail := filepath.Join(t.TempDir(), "log"), filepath.Join(t.TempDir(), "fail")
	e := start(t, cfg)
	path := filepath.Join(cfg.ConfDir, "05-foreign.conflist")
	write(t, path, `{"cniVersion":"1.1.0","name":"foreign","plugins":[{"type":"foreign","capabilities":{"portMappings":true}}]}`, 0o600)
	if err := e.Status(t.Context()); !errors.Is(err, network.ErrNotReady) || !strings.Contains(err.Error(), `"foreign" is not built in`) {
		t.Fatalf("without the executable: %v", err)
	}
	write(t, filepath.Join(cfg.BinDirs[0], "foreign"), strings.NewReplacer("LOG", log, "FAIL", fail).Replace(script), 0o755)
	if err := e.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	write(t, fail, "", 0o600)
	if err := e.Status(t.Context()); !errors.Is(err, network.ErrNotReady) || !strings.Contains(err.Error(), "agent is not up") {
		t.Errorf("status: %v", err)
	}
	ns, err := e.NewNamespace(t.Context(), "failing")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Attach(t.Context(), network.Sandbox{ID: "failing", NetNS: ns}); err == nil || !strings.Contains(err.Error(), "try later") {
		t.Errorf("attach: %v", err)
	}
	if err := os.Remove(fail); err != nil {
		t.Fatal(err)
	}
	p := attach(t, e, "pod1")
	if p.ip.String() != "10.77.0.9" {
		t.Errorf("address %s", p.ip)
	}
	attach(t, e, "pod2")

	// Only the first file counts, and a broken one is not passed over.
	write(t, filepath.Join(cfg.ConfDir, "01-broken.conflist"), `{"name":`, 0o600)
	if err := e.Status(t.Context()); !errors.Is(err, network.ErrNotReady) || !strings.Contains(err.Error(), "01-broken.conflist") {
		t.Errorf("with a broken file: %v", err)
	}
	detach(t, e, p)
	if err := e.Retain(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	calls := string(data)
	for _, want := range []string{
		"ADD failing eth0 ", "DEL failing eth0 ", "DEL pod1 eth0 ", "DEL pod2 eth0 ",
		"ADD pod1 eth0 IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=pod-pod1;K8S_POD_INFRA_CONTAINER_ID=pod1;K8S_POD_UID=uid-pod1",
	} {
		if !strings.Contains(calls, want) {
			t.Errorf("no call %q in:\n%s", want, calls)
		}
	}
}

func TestBuiltinRefusesKeysItDoesNotHonour(t *testing.T) {
	cfg := testConfig(t)
	e := start(t, cfg)
	path := filepath.Join(cfg.ConfDir, "10.conflist")
	write(t, path, strings.Replace(referenceNetwork, `"promiscMode": true`, `"vlan": 7`, 1), 0o600)
	ns, err := e.NewNamespace(t.Context(), "pod")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.Attach(t.Context(), network.Sandbox{ID: "pod", NetNS: ns}); err == nil || !strings.Contains(err.Error(), `"vlan"`) {
		t.Errorf("an unknown key: %v", err)
	}
	// With an executable of that name the configuration is its to honour.
	marker := filepath.Join(t.TempDir(), "called")
	write(t, filepath.Join(cfg.BinDirs[0], "bridge"), "#!/bin/sh\ncat > "+marker+"\nexit 1\n", 0o755)
	if _, err := e.Attach(t.Context(), network.Sandbox{ID: "pod", NetNS: ns}); err == nil {
		t.Error("a failing executable succeeded")
	}
	if _, err := os.Stat(marker); err != nil {
		t.Error("the executable was not called")
	}
}
