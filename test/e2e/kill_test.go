//go:build e2e

package e2e

import (
	"bufio"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// processes reads the pids of skiff's processes from status.
func processes(t *testing.T, h *harness.Host) map[string]int {
	t.Helper()
	var s struct {
		Processes []struct {
			Name string
			Pid  int
		}
	}
	if err := json.Unmarshal([]byte(h.MustSkiff("status", "-o", "json")), &s); err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range s.Processes {
		out[p.Name] = p.Pid
	}
	return out
}

// TestKill kills the CRI server, and then everything but the keeper, while a pod counts in its log. No container restarts,
// pods stay Ready, and the log has no gap.
func TestKill(t *testing.T) {
	h := harness.NewHost(t)
	h.Up()
	apply(t, h, "hello.yaml")
	h.Kubectl("run", "counter", "--image=localhost/skiff/probe:v1", "--restart=Never", "--", "count", "20ms")
	h.Kubectl("wait", "--for=condition=Ready", "pod/counter", "--timeout=60s")
	h.Kubectl("rollout", "status", "deployment/hello", "--timeout=60s")
	pods := podPids(t, h)
	if len(pods) != 4 {
		t.Fatalf("pids of containers: %v", pods)
	}

	before := processes(t, h)
	h.MustRun("kill", "-9", strconv.Itoa(before["skiff-cri"]))
	harness.Eventually(t, 30*time.Second, "the server starts the CRI server again", func() (bool, string) {
		now := processes(t, h)
		return now["skiff-cri"] != 0 && now["skiff-cri"] != before["skiff-cri"] && now["skiff-keeper"] == before["skiff-keeper"], fmt.Sprint(now)
	})
	h.Up()
	same(t, h, pods, "after kill -9 of the CRI server")

	before = processes(t, h)
	h.MustRun("kill", "-9", strconv.Itoa(before["skiff server"]), strconv.Itoa(before["skiff-cri"]))
	h.Up()
	if now := processes(t, h); now["skiff-keeper"] != before["skiff-keeper"] {
		t.Errorf("the keeper is another one: %v, was %v", now, before)
	}
	same(t, h, pods, "after kill -9 of everything but the keeper")

	_, logs := start(t, h, filepath.Join(h.BinDir, "skiff"), "kubectl", "logs", "-f", "counter")
	lines := bufio.NewScanner(logs)
	for i := range 300 {
		if !lines.Scan() || lines.Text() != strconv.Itoa(i) {
			t.Fatalf("line %d of the log: %q", i, lines.Text())
		}
	}
	h.Kubectl("delete", "pod", "counter", "--grace-period=1")
	fetchHello(t, h)
}

// podPids maps the host's container processes to their command, by the keeper's children, of which one holds streams.
func podPids(t *testing.T, h *harness.Host) map[string]string {
	t.Helper()
	keeper := processes(t, h)["skiff-keeper"]
	out := map[string]string{}
	for line := range strings.Lines(h.MustRun("ps", "-o", "pid=,args=", "--ppid", strconv.Itoa(keeper))) {
		if pid, args, _ := strings.Cut(strings.TrimSpace(line), " "); !strings.HasPrefix(args, "skiff-hold") {
			out[pid] = args
		}
	}
	return out
}

// same asks that no container process changed, no container restarted, and every pod is Ready.
func same(t *testing.T, h *harness.Host, pods map[string]string, when string) {
	t.Helper()
	if now := podPids(t, h); fmt.Sprint(now) != fmt.Sprint(pods) {
		t.Errorf("%s: container processes %v, were %v", when, now, pods)
	}
	out := h.Kubectl("get", "pods", "--no-headers", "-o", "custom-columns=N:.metadata.name,R:.status.conditions[?(@.type=='Ready')].status,C:.status.containerStatuses[0].restartCount")
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) != 3 || f[1] != "True" || f[2] != "0" {
			t.Errorf("%s: pod %s", when, line)
		}
	}
}
