//go:build e2e

// Package e2e runs whole nodes on simulated hosts and asks of them, through the commands that users have, what users
// expect.
package e2e

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// TestUpDownPurge is the life of a node from nothing to nothing: a host that has been up and down is as it was before.
func TestUpDownPurge(t *testing.T) {
	h := harness.NewHost(t)
	before := h.Inventory()

	first := h.Up()
	if !strings.Contains(first, "is Ready") {
		t.Errorf("up does not say that the node is ready:\n%s", first)
	}
	if again := h.Up(); !strings.Contains(again, "runs already") {
		t.Errorf("a second up does not find the first:\n%s", again)
	}
	apply(t, h, "hello.yaml")
	h.Kubectl("rollout", "status", "deployment/hello", "--timeout=120s")
	fetchHello(t, h)

	status := h.MustSkiff("status")
	for _, want := range []string{"control plane", "kubelet", "cri.sock", "skiff-keeper", h.Name} {
		if !strings.Contains(status, want) {
			t.Errorf("status does not show %q:\n%s", want, status)
		}
	}

	h.MustSkiff("down")
	if out, err := h.Skiff("status"); err == nil {
		t.Errorf("status succeeds after down:\n%s", out)
	}
	h.Up()
	harness.Eventually(t, time.Minute, "the Deployment comes back after down and up", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "deployment", "hello", "-o", "jsonpath={.status.readyReplicas}")
		return err == nil && out == "3", out
	})
	fetchHello(t, h)

	h.MustSkiff("down", "--purge")
	if diff := before.Diff(h.Inventory()); diff != "" {
		t.Errorf("the host is not as it was:\n%s", diff)
	}
}

// fetchHello asks the hello Service by its cluster IP, from the node.
func fetchHello(t *testing.T, h *harness.Host) {
	t.Helper()
	ip := h.Kubectl("get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}")
	harness.Eventually(t, 30*time.Second, "an answer through the Service", func() (bool, string) {
		out, err := h.Run("curl", "-sS", "-m", "3", "http://"+ip+"/")
		return err == nil && strings.HasPrefix(out, "Hello from hello-"), out
	})
}

// TestBadInput gives each kind of wrong input and asks for one clear error that names it, and exit code 1.
func TestBadInput(t *testing.T) {
	h := harness.NewHost(t)
	before := h.Inventory()
	for _, tc := range []struct {
		name string
		prep string
		args []string
		want []string
	}{
		{"flag", "", []string{"up", "--no-such-flag"}, []string{"--no-such-flag"}},
		{"key", "mkdir -p /etc/skiff; echo 'podCidr: x' >/etc/skiff/server.yaml", []string{"up"}, []string{"podCidr", "/etc/skiff/server.yaml"}},
		{"value", "", []string{"up", "--pod-cidr", "10.42.0.0/99"}, []string{"podCIDR", "10.42.0.0/99"}},
		{"node name", "", []string{"up", "--node-name", "Not_A_Name"}, []string{"nodeName", "Not_A_Name"}},
		{"file", "", []string{"up", "--config", "/no/such/file"}, []string{"/no/such/file"}},
	} {
		if tc.prep != "" {
			h.MustRun("sh", "-c", tc.prep)
		}
		out, err := h.Skiff(tc.args...)
		h.MustRun("rm", "-rf", "/etc/skiff")
		if err == nil || !strings.Contains(err.Error(), "exit status 1") {
			t.Errorf("%s: err %v, want exit status 1", tc.name, err)
		}
		for _, want := range tc.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q does not name %s", tc.name, out, want)
			}
		}
	}
	if diff := before.Diff(h.Inventory()); diff != "" {
		t.Errorf("something half-made stays:\n%s", diff)
	}
}

// TestBusyPort takes the API server's port first.
func TestBusyPort(t *testing.T) {
	h := harness.NewHost(t)
	registry(t, h, "0.0.0.0:6443")
	out, err := h.Skiff("up", "--cgroup-root", h.CgroupRoot)
	if err == nil || !strings.Contains(out, "6443") || !strings.Contains(out, "ports.api") || !strings.Contains(out, "remedy") {
		t.Errorf("err %v, output %q: want the port, its key and a remedy", err, out)
	}
	for _, p := range h.Inventory()["processes"] {
		if strings.Contains(p, "skiff") {
			t.Errorf("left running: %s", p)
		}
	}
}

// apply applies a file of examples/.
func apply(t *testing.T, h *harness.Host, file string) {
	t.Helper()
	h.Kubectl("apply", "-f", example(t, file))
}

// example is the path of a file of examples/, which a host sees as the machine does.
func example(t *testing.T, file string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "..", "examples", file))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
