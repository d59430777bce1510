//go:build root

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPodMetricsOfARunningPod asks for the metrics of a pod that has used something of everything.
func TestPodMetricsOfARunningPod(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("metrics")
	box := h.runSandbox(config)
	c := containerConfig("app", "x=$(head -c 3000000 /dev/zero | tr '\\0' a); exec sleep 1000")
	c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	id := h.start(box, c, config)
	var values map[string]uint64
	h.until("the pod shows in the metrics", func() bool {
		list, err := h.runtime.ListPodSandboxMetrics(t.Context(), &cri.ListPodSandboxMetricsRequest{})
		if err != nil || len(list.PodMetrics) != 1 || len(list.PodMetrics[0].ContainerMetrics) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		values = map[string]uint64{}
		for _, m := range list.PodMetrics[0].Metrics {
			values["pod "+m.Name] += m.Value.Value
		}
		if list.PodMetrics[0].ContainerMetrics[0].ContainerId != id {
			t.Fatalf("%v", list)
		}
		for _, m := range list.PodMetrics[0].ContainerMetrics[0].Metrics {
			values[m.Name] += m.Value.Value
		}
		return values["container_memory_max_usage_bytes"] > 3000000 && values["container_processes"] == 1
	})
	for _, name := range []string{
		"container_memory_usage_bytes", "container_memory_rss", "container_threads", "container_file_descriptors", "container_memory_failures_total",
		"container_fs_usage_bytes", "container_fs_limit_bytes", "container_fs_inodes_free", "container_start_time_seconds", "container_ulimits_soft",
		"pod container_memory_usage_bytes", "pod container_processes", "pod container_start_time_seconds",
	} {
		if values[name] == 0 {
			t.Errorf("%s is 0 or missing", name)
		}
	}
	if values["container_spec_cpu_quota"] != 50000 || values["container_spec_memory_limit_bytes"] != 64<<20 {
		t.Errorf("%v", values)
	}
	if _, ok := values["pod container_network_receive_bytes_total"]; !ok {
		t.Error("the pod's network is not counted")
	}
}

// TestOperations runs a server whose configuration is edited and reloaded under it.
func TestOperations(t *testing.T) {
	h := newHost(t)
	before, err := os.ReadFile(h.config)
	if err != nil {
		t.Fatal(err)
	}
	edit := func(text string) {
		t.Helper()
		if err := os.WriteFile(h.config, append(slices.Clone(before), text...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.server.Process.Signal(unix.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	socket := filepath.Join(h.dir, "run", "metrics.sock")
	if answersAt(t, socket) {
		t.Fatal("metrics are served though they are off")
	}
	edit(fmt.Sprintf("[monitor]\nmetrics = \"unix://%s\"\n[runtimes.other]\npath = \"/bin/false\"\n", socket))
	h.until("metrics are served", func() bool { return answersAt(t, socket) })
	h.until("the handler is known", func() bool {
		st, err := h.runtime.Status(t.Context(), &cri.StatusRequest{Verbose: true})
		if err != nil || !strings.Contains(st.Info["calls"], "Status") {
			t.Fatalf("%v, %v", st, err)
		}
		return slices.ContainsFunc(st.RuntimeHandlers, func(r *cri.RuntimeHandler) bool { return r.Name == "other" })
	})
	config := h.sandboxConfig("ops")
	h.start(h.runSandbox(config), containerConfig("app", "sleep 1000"), config)
	text := h.metrics(socket)
	for _, want := range []string{
		`grpc_server_handled_total{grpc_code="OK",grpc_method="RunPodSandbox",grpc_service="runtime.v1.RuntimeService",grpc_type="unary"} 1`,
		`skiff_cri_step_seconds_count{call="StartContainer",step="start the process"} 1`, `skiff_cri_containers{state="running"} 1`,
		`skiff_cri_keeper_connects_total 1`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in\n%s", want, text)
		}
	}
	out, err := h.output("calls")
	if err != nil || !strings.HasPrefix(out, "CALL") {
		t.Errorf("%s, %v", out, err)
	}
	edit("nonsense = 1\n")
	h.until("the bad file is named", func() bool { return strings.Contains(h.log(), "unknown key") })
	edit("[network]\n")
	h.until("the second table is named", func() bool { return strings.Count(h.log(), "the old one stays") == 2 })
	if !answersAt(t, socket) {
		t.Error("a bad configuration took the metrics away")
	}
	edit("")
	h.until("metrics are off", func() bool { return !answersAt(t, socket) })
}

// metrics scrapes the server.
func (h *host) metrics(socket string) string {
	h.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: dialUnix(socket)}}
	reply, err := client.Get("http://x/metrics")
	if err != nil {
		h.Fatal(err)
	}
	defer reply.Body.Close()
	text, err := io.ReadAll(reply.Body)
	if err != nil {
		h.Fatal(err)
	}
	return string(text)
}

// output runs another command of skiff-cri.
func (h *host) output(args ...string) (string, error) {
	cmd := h.command(args...)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	return out.String(), err
}

// TestServiceManager: the service manager hears of readiness, reloads and life.
func TestServiceManager(t *testing.T) {
	h := newHost(t)
	h.kill()
	path := filepath.Join(h.dir, "notify")
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "200000")
	h.up()
	h.hears(manager, "READY=1")
	h.hears(manager, "WATCHDOG=1")
	if err := h.server.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	h.hears(manager, "RELOADING=1")
	h.hears(manager, "READY=1")
	if err := h.server.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	h.hears(manager, "STOPPING=1")
	_ = h.server.Wait()
}

// hears waits for a message that begins so.
func (h *host) hears(manager *net.UnixConn, want string) {
	h.Helper()
	if err := manager.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		h.Fatal(err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := manager.Read(buf)
		if err != nil {
			h.Fatalf("no %s: %v", want, err)
		}
		if strings.HasPrefix(string(buf[:n]), want) {
			return
		}
	}
}
