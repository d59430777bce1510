//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// registryAddr is where the test registry listens inside a host.
const registryAddr = "127.0.0.1:5000"

// registry starts the test registry inside the host.
func registry(t *testing.T, h *harness.Host, addr string) {
	t.Helper()
	cmd, out := start(t, h, filepath.Join(h.BinDir, "images", "registry"), addr, filepath.Join(h.BinDir, "images"))
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "ready") {
		t.Fatalf("registry: %q %v %v", line, err, cmd.ProcessState)
	}
}

// start runs a command in the host until the test ends.
func start(t *testing.T, h *harness.Host, name string, args ...string) (*exec.Cmd, io.Reader) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Command(ctx, name, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); cmd.Wait() })
	return cmd, out
}

// TestWorkloads does with kubectl what people do first.
func TestWorkloads(t *testing.T) {
	h := harness.NewHost(t)
	h.Up()
	registry(t, h, registryAddr)
	t.Run("deployment", func(t *testing.T) { deployment(t, h) })
	t.Run("examples", func(t *testing.T) { examples(t, h) })
	t.Run("streams", func(t *testing.T) { streams(t, h) })
	t.Run("dns", func(t *testing.T) { names(t, h) })
	t.Run("nodeport", func(t *testing.T) { nodePort(t, h) })
	t.Run("explain", func(t *testing.T) { explain(t, h) })
}

func deployment(t *testing.T, h *harness.Host) {
	image := func(tag string) string { return registryAddr + "/skiff/hello:" + tag }
	h.Kubectl("create", "deployment", "web", "--image="+image("v1"), "--replicas=3", "--port=8080")
	h.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	h.Kubectl("expose", "deployment", "web", "--port=80", "--target-port=8080")
	ip := h.Kubectl("get", "service", "web", "-o", "jsonpath={.spec.clusterIP}")
	seen := map[string]bool{}
	harness.Eventually(t, 30*time.Second, "three pods answer behind the Service", func() (bool, string) {
		out, err := h.Run("curl", "-sS", "-m", "3", "http://"+ip+"/")
		if err == nil {
			seen[out] = true
		}
		return len(seen) == 3, fmt.Sprint(seen, out)
	})

	h.Kubectl("scale", "deployment", "web", "--replicas=5")
	h.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	expect(t, h, "5", "get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}")
	h.Kubectl("scale", "deployment", "web", "--replicas=2")
	expect(t, h, "2", "get", "deployment", "web", "-o", "jsonpath={.status.replicas}")

	h.Kubectl("set", "image", "deployment/web", "hello="+image("v2"))
	h.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	expect(t, h, image("v2")+" "+image("v2"), "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.containers[0].image}")
	h.Kubectl("rollout", "undo", "deployment/web")
	h.Kubectl("rollout", "status", "deployment/web", "--timeout=60s")
	expect(t, h, image("v1")+" "+image("v1"), "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.containers[0].image}")

	victim := strings.Fields(h.Kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"))[0]
	h.Kubectl("delete", "pod", victim)
	harness.Eventually(t, 60*time.Second, "a new pod comes", func() (bool, string) {
		out := h.Kubectl("get", "pods", "-l", "app=web", "--no-headers")
		return strings.Count(out, "1/1") == 2 && !strings.Contains(out, victim), out
	})
	describe := h.Kubectl("describe", "pod", strings.Fields(h.Kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"))[0])
	for _, want := range []string{"Successfully assigned", "Started", "Ready"} {
		if !strings.Contains(describe, want) {
			t.Errorf("describe misses %q:\n%s", want, describe)
		}
	}
	h.Kubectl("delete", "service,deployment", "web")
	expect(t, h, "", "get", "pods", "-l", "app=web", "-o", "name")
}

// expect waits until a kubectl command prints exactly this.
func expect(t *testing.T, h *harness.Host, want string, args ...string) {
	t.Helper()
	harness.Eventually(t, 60*time.Second, "kubectl "+strings.Join(args, " "), func() (bool, string) {
		out, err := h.Skiff(append([]string{"kubectl"}, args...)...)
		return err == nil && strings.TrimSpace(out) == want, out
	})
}

func examples(t *testing.T, h *harness.Host) {
	files, err := filepath.Glob(filepath.Join("..", "..", "examples", "*.yaml"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		h.Kubectl("apply", "-f", example(t, filepath.Base(f)))
		h.Kubectl("apply", "--server-side", "--force-conflicts", "-f", example(t, filepath.Base(f)))
	}
	h.Kubectl("rollout", "status", "deployment/hello", "--timeout=60s")
	fetchHello(t, h)
	h.Kubectl("rollout", "status", "deployment/configured", "--timeout=60s")
	expect(t, h, "ahoy, captain\nFair winds.\nparrot", "logs", "deployment/configured")
	h.Kubectl("wait", "--for=condition=complete", "job/count", "--timeout=60s")
	expect(t, h, "3", "get", "job", "count", "-o", "jsonpath={.status.succeeded}")
	out := strings.Fields(h.Kubectl("logs", "-l", "batch.kubernetes.io/job-name=count"))
	if len(out) != 9 {
		t.Errorf("logs of the job: %q", out)
	}
	for _, f := range files {
		h.Kubectl("delete", "--wait=false", "-f", example(t, filepath.Base(f)))
	}
}

// streams tests what goes through the kubelet: logs, exec, attach and port-forward.
func streams(t *testing.T, h *harness.Host) {
	h.Kubectl("run", "counter", "--image=localhost/skiff/probe:v1", "--restart=Never", "--", "count", "50ms")
	h.Kubectl("run", "shell", "--image=localhost/skiff/busybox:v1", "--restart=Never", "--", "sleep", "1000")
	h.Kubectl("run", "server", "--image=localhost/skiff/hello:v1", "--restart=Never", "--port=8080")
	h.Kubectl("wait", "--for=condition=Ready", "pod/counter", "pod/shell", "pod/server", "--timeout=60s")

	_, logs := start(t, h, filepath.Join(h.BinDir, "skiff"), "kubectl", "logs", "-f", "counter")
	lines := bufio.NewScanner(logs)
	for i := range 40 {
		if !lines.Scan() || lines.Text() != fmt.Sprint(i) {
			t.Fatalf("line %d of the followed log: %q", i, lines.Text())
		}
	}
	if got := h.Kubectl("exec", "shell", "--", "sh", "-c", "echo out; hostname"); got != "out\nshell\n" {
		t.Errorf("exec: %q", got)
	}
	if out, err := h.Skiff("kubectl", "exec", "shell", "--", "sh", "-c", "exit 7"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("exit code of exec: %v %q", err, out)
	}
	tty := h.MustRun("sh", "-c", "echo 'test -t 0 && echo a tty; exit' | script -qec 'skiff kubectl exec -it shell -- sh' /dev/null")
	if !strings.Contains(tty, "a tty\r\n") {
		t.Errorf("exec -it: %q", tty)
	}
	_, forward := start(t, h, filepath.Join(h.BinDir, "skiff"), "kubectl", "port-forward", "pod/server", "18080:8080")
	if line, err := bufio.NewReader(forward).ReadString('\n'); err != nil || !strings.Contains(line, "18080") {
		t.Fatalf("port-forward: %q %v", line, err)
	}
	if out := h.MustRun("curl", "-sS", "-m", "5", "http://127.0.0.1:18080/"); out != "Hello from server\n" {
		t.Errorf("through port-forward: %q", out)
	}
	h.Kubectl("delete", "pod", "counter", "shell", "server", "--grace-period=1")
}

// names resolves Services by name, inside pods.
func names(t *testing.T, h *harness.Host) {
	h.Kubectl("create", "deployment", "named", "--image=localhost/skiff/hello:v1")
	h.Kubectl("expose", "deployment", "named", "--port=80", "--target-port=8080")
	h.Kubectl("run", "asker", "--image=localhost/skiff/probe:v1", "--restart=Never", "--", "sleep", "1000s")
	h.Kubectl("rollout", "status", "deployment/named", "--timeout=60s")
	h.Kubectl("wait", "--for=condition=Ready", "pod/asker", "--timeout=60s")
	for _, name := range []string{"named", "named.default", "named.default.svc.cluster.local"} {
		harness.Eventually(t, 30*time.Second, "GET http://"+name, func() (bool, string) {
			out, err := h.Skiff("kubectl", "exec", "asker", "--", "/probe", "get", "http://"+name+"/")
			return err == nil && strings.HasPrefix(out, "Hello from named-"), out
		})
	}
	if out, err := h.Skiff("kubectl", "exec", "asker", "--", "/probe", "lookup", "nobody.default.svc.cluster.local"); err == nil {
		t.Errorf("a name that nobody has resolves: %s", out)
	}
	h.Kubectl("delete", "service/named", "deployment/named", "pod/asker", "--grace-period=1")
}

// nodePort asks from another host.
func nodePort(t *testing.T, h *harness.Host) {
	h.Kubectl("create", "deployment", "door", "--image=localhost/skiff/hello:v1", "--replicas=2")
	h.Kubectl("expose", "deployment", "door", "--type=NodePort", "--port=80", "--target-port=8080")
	h.Kubectl("rollout", "status", "deployment/door", "--timeout=60s")
	port := h.Kubectl("get", "service", "door", "-o", "jsonpath={.spec.ports[0].nodePort}")
	harness.Eventually(t, 30*time.Second, "an answer through the node port, from outside", func() (bool, string) {
		out, err := h.Outside("curl", "-sS", "-m", "3", "http://"+h.IP+":"+port+"/")
		return err == nil && strings.HasPrefix(out, "Hello from door-"), out
	})
	h.Kubectl("delete", "service/door", "deployment/door")
}

func explain(t *testing.T, h *harness.Host) {
	if out := h.Kubectl("explain", "deployment.spec.replicas"); !strings.Contains(out, "replicas") || !strings.Contains(out, "integer") {
		t.Errorf("explain: %s", out)
	}
	if out := h.Kubectl("get", "nodes", "-o", "wide"); !strings.Contains(out, "INTERNAL-IP") || !strings.Contains(out, h.IP) {
		t.Errorf("get nodes: %s", out)
	}
	if out := h.Kubectl("api-resources"); !strings.Contains(out, "deployments") {
		t.Errorf("api-resources: %s", out)
	}
}
