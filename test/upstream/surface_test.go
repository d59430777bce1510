//go:build upstream

package upstream

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// surface lists requests that both kubelets have to answer alike: "status" alone, or "same" for the text too.
const surface = `
same   GET /healthz
same   GET /healthz/ping
same   GET /healthz/log
same   GET /healthz/syncloop
same   GET /healthz/none
status GET /pods
status GET /pods/
same   POST /pods
same   DELETE /pods
status HEAD /pods
status GET /runningpods/
same   POST /runningpods/
status GET /configz
status GET /stats/summary
same   GET /stats
same   GET /stats/none
status GET /metrics
status GET /metrics/cadvisor
status GET /metrics/resource
status GET /metrics/probes
status GET /metrics/slis
same   GET /metrics/none
status GET /statusz
status GET /flagz
status GET /logs/
same   GET /logs/alpha.log
same   GET /logs/none
same   GET /logs/%2e%2e/%2e%2e/etc/passwd
same   POST /logs/
same   GET /logs/?query=
same   GET /logs/?query=svc
same   GET /logs/?query=none
same   GET /logs/?query=svc&tailLines=1
same   GET /logs/?query=svc&tailLines=-1
same   GET /logs/?query=svc&sinceTime=x
same   GET /logs/?query=svc&boot=1
same   GET /logs/?query=svc&pattern=[
same   GET /logs/?query=svc&query=/alpha.log
same   GET /logs/?tailLines=1
status GET /logs/?query=/../etc/passwd
same   GET /debug/flags/v
same   PUT /debug/flags/v
status GET /debug/pprof/goroutine
same   POST /debug/pprof/symbol
same   GET /run/default/x/y
same   POST /run/default/x/y
same   POST /run/default/x
same   GET /exec/default/x/y
same   GET /exec
same   POST /attach/default/x/y
same   GET /portForward/default/x
same   GET /containerLogs/default/x/y
same   GET /containerLogs/default/x
same   POST /containerLogs/default/x/y
same   GET /checkpoint/default/x/y
same   POST /checkpoint/default/x/y
same   GET /
same   GET /none
same   GET /spec
`

// TestSurface asks both kubelets the same and compares the answers. What skiff's answers otherwise on purpose is in
// docs/kubelet.md.
func TestSurface(t *testing.T) {
	upstreams, skiffs := harness.NewHost(t), harness.NewHost(t)
	config := strings.Replace(kubeletConfig, "enableDebuggingHandlers", "enableSystemLogQuery: true\nenableDebuggingHandlers", 1)
	nodes := map[string]*node{}
	for name, h := range map[string]*harness.Host{"upstream": upstreams, "skiff": skiffs} {
		r := skiffCRI(t, h)
		write(t, h, "/var/log/alpha.log", "one\ntwo\n")
		write(t, h, "/var/log/svc/svc.log", "three\nfour\n")
		if name == "upstream" {
			nodes[name] = upstreamKubelet(t, h, r, config)
			continue
		}
		write(t, h, "/etc/kubernetes/kubelet.yaml", fmt.Sprintf(config, r.socket, h.CgroupRoot))
		write(t, h, "/etc/kubernetes/manifests/.keep", "")
		harness.Daemon(h, "kubelet", filepath.Join(h.BinDir, "skiff-kubelet"), "--config=/etc/kubernetes/kubelet.yaml", "--hostname-override="+h.Name, "--node-ip="+h.IP)
		nodes[name] = newNode(t, h)
	}
	for line := range strings.Lines(strings.TrimSpace(surface)) {
		f := strings.Fields(line)
		want, text := nodes["upstream"].answer(f[1], f[2])
		code, got := nodes["skiff"].answer(f[1], f[2])
		if code != want || (f[0] == "same" && strings.TrimSpace(got) != strings.TrimSpace(text)) {
			t.Errorf("%s %s: %d %q; upstream answers %d %q", f[1], f[2], code, got, want, text)
		}
	}
	_, ours := nodes["skiff"].answer(http.MethodGet, "/metrics")
	named := regexp.MustCompile(`(?m)^# TYPE (\S+) \S+$`).FindAllStringSubmatch(ours, -1)
	harness.Eventually(t, time.Minute, "upstream has all metrics that skiff's kubelet has, of the same kinds", func() (bool, string) {
		_, theirs := nodes["upstream"].answer(http.MethodGet, "/metrics")
		for _, m := range named {
			if !strings.Contains(theirs, m[0]) && !onlyHere[m[1]] {
				return false, m[0]
			}
		}
		return len(named) > 50, fmt.Sprint(len(named))
	})
}

// onlyHere are metrics that upstream's standalone kubelet shows only once there is something to count.
var onlyHere = map[string]bool{
	"kubelet_pod_pending_resizes": true, "kubelet_admission_rejections_total": true, "volume_manager_total_volumes": true,
	"kubelet_running_containers": true,
}

// answer is the status and the text of an answer, whatever the status.
func (n *node) answer(method, path string) (int, string) {
	n.Helper()
	req, err := http.NewRequest(method, "https://127.0.0.1:10250"+path, nil)
	if err != nil {
		n.Fatal(err)
	}
	resp, err := n.client.Do(req)
	if err != nil {
		n.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		n.Fatal(err)
	}
	return resp.StatusCode, string(body)
}
