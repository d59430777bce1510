//go:build root

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// memoryLimit reads the limit of a container's cgroup where it lies.
func (h *host) memoryLimit(id string) string {
	h.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/memory" + h.cgroup + "/pods/*/" + id + "/memory.limit_in_bytes", "/sys/fs/cgroup" + h.cgroup + "/pods/*/" + id + "/memory.max"} {
		found, _ := filepath.Glob(pattern)
		if len(found) != 1 {
			continue
		}
		text, err := os.ReadFile(found[0])
		if err != nil {
			h.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	h.Fatal("the container has no memory cgroup")
	return ""
}

func TestResources(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("limits")
	box := h.runSandbox(config)
	c := containerConfig("app", "sleep 1000")
	c.Linux.Resources = &cri.LinuxContainerResources{
		CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 500, CpusetCpus: "0",
		HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB"}},
	}
	id := h.start(box, c, config)
	h.expect(id, "cat /proc/self/oom_score_adj; nproc", "500 1")
	if got := h.memoryLimit(id); got != "67108864" {
		t.Errorf("memory limit %s", got)
	}
	update := func(r *cri.LinuxContainerResources) error {
		_, err := h.runtime.UpdateContainerResources(t.Context(), &cri.UpdateContainerResourcesRequest{ContainerId: id, Linux: r})
		return err
	}
	if err := update(&cri.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuShares: 256}); err != nil {
		t.Fatal(err)
	}
	told := func() *cri.LinuxContainerResources { return h.status(id).Resources.Linux }
	if r := told(); r.MemoryLimitInBytes != 96<<20 || r.CpuShares != 256 || r.CpuQuota != 50000 || r.CpusetCpus != "0" {
		t.Errorf("status after the update: %v", r)
	}
	if got := h.memoryLimit(id); got != "100663296" {
		t.Errorf("memory limit %s", got)
	}
	for name, r := range map[string]*cri.LinuxContainerResources{
		"a processor that is not there": {CpusetCpus: "4000", MemoryLimitInBytes: 128 << 20},
		"a negative quota":              {CpuQuota: -7, MemoryLimitInBytes: 128 << 20},
	} {
		if err := update(r); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if r := told(); r.MemoryLimitInBytes != 96<<20 || r.CpusetCpus != "0" {
			t.Errorf("%s: status %v", name, r)
		}
		if got := h.memoryLimit(id); got != "100663296" {
			t.Errorf("%s: memory limit %s: one half of the update was done", name, got)
		}
	}
	_, err := h.runtime.UpdatePodSandboxResources(t.Context(), &cri.UpdatePodSandboxResourcesRequest{
		PodSandboxId: box, Resources: &cri.LinuxContainerResources{CpuShares: 2}, Overhead: &cri.LinuxContainerResources{CpuShares: 3},
	})
	if err != nil {
		t.Errorf("resources of the pod: %v", err)
	}
	created := containerConfig("later", "sleep 1000")
	r, err := h.runtime.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: box, Config: created, SandboxConfig: config})
	if err != nil {
		t.Fatal(err)
	}
	id = r.ContainerId
	if err := update(&cri.LinuxContainerResources{MemoryLimitInBytes: 32 << 20}); err != nil { // before it has a process
		t.Fatal(err)
	}
	if _, err := h.runtime.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: id}); err != nil {
		t.Fatal(err)
	}
	if got := h.memoryLimit(id); got != "33554432" {
		t.Errorf("memory limit of the one that was updated before its start: %s", got)
	}
	h.remove(box)
	h.nothingLeft()
}

func TestSignalsAndSysctls(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("signals")
	config.Linux.Sysctls = map[string]string{"net.ipv4.tcp_syncookies": "0", "kernel.msgmax": "4096", "net/ipv4/conf/all/forwarding": "1"}
	box := h.runSandbox(config)
	c := containerConfig("app", "trap 'exit 10' USR1; trap 'exit 15' TERM; while true; do sleep 0.05; done")
	c.StopSignal = cri.Signal_SIGNAL_SIGUSR1
	id := h.start(box, c, config)
	h.expect(id, "cat /proc/sys/net/ipv4/tcp_syncookies /proc/sys/kernel/msgmax /proc/sys/net/ipv4/conf/all/forwarding", "0 4096 1")
	if s := h.status(id); s.StopSignal != cri.Signal_SIGNAL_SIGUSR1 {
		t.Errorf("stop signal %v", s.StopSignal)
	}
	if _, err := h.runtime.StopContainer(t.Context(), &cri.StopContainerRequest{ContainerId: id, Timeout: 60}); err != nil {
		t.Fatal(err)
	}
	if s := h.status(id); s.ExitCode != 10 {
		t.Errorf("ended with %d: it got another signal", s.ExitCode)
	}
	plain := containerConfig("plain", "sleep 1000")
	if s := h.status(h.start(box, plain, config)); s.StopSignal != cri.Signal_SIGNAL_SIGTERM { // the image's
		t.Errorf("the image's stop signal: %v", s.StopSignal)
	}
	config.Metadata.Attempt++
	config.Linux.Sysctls = map[string]string{"net.ipv4.no_such": "1"}
	if _, err := h.runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config}); err == nil || !strings.Contains(err.Error(), "net.ipv4.no_such") {
		t.Errorf("a sysctl that is not there: %v", err)
	}
	config.Linux.Sysctls = map[string]string{"vm.swappiness": "1"}
	if _, err := h.runtime.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: config}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a sysctl of the node: %v", err)
	}
	h.remove(box)
	h.nothingLeft()
}

func TestCapabilitiesAndPaths(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("caps")
	box := h.runSandbox(config)
	c := containerConfig("app", "sleep 1000")
	c.Linux.SecurityContext.RunAsUser = &cri.Int64Value{Value: 1000}
	c.Linux.SecurityContext.Capabilities = &cri.Capability{
		DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_BIND_SERVICE"}, AddAmbientCapabilities: []string{"CAP_NET_RAW"},
	}
	c.Linux.SecurityContext.MaskedPaths = []string{"/www"}
	c.Linux.SecurityContext.ReadonlyPaths = []string{"/tmp"}
	c.Linux.SecurityContext.NoNewPrivs = true
	id := h.start(box, c, config)
	h.expect(id, "grep -E 'CapAmb|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status", "CapBnd: 0000000000002400 CapAmb: 0000000000002000 NoNewPrivs: 1 Seccomp: 2")
	h.expect(id, "ls /www; touch /tmp/x 2>/dev/null || echo read-only", "read-only")
	if u := h.status(id).User.GetLinux(); u.GetUid() != 1000 {
		t.Errorf("user %v", u)
	}
	h.remove(box)
	h.nothingLeft()
}
