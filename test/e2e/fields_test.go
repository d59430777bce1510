//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// TestFields starts kubelets with fields of KubeletConfiguration that few set, and looks at what becomes of pods.
func TestFields(t *testing.T) {
	t.Run("flat", func(t *testing.T) { t.Parallel(); flat(t) })
	t.Run("reserved", func(t *testing.T) { t.Parallel(); reservedMemory(t) })
}

// configured is a host whose kubelet has these lines in its configuration.
func configured(t *testing.T, lines func(h *harness.Host) string) *harness.Host {
	t.Helper()
	h := harness.NewHost(t)
	socket := harness.SkiffCRI(h, filepath.Join(h.BinDir, "images", "busybox.tar"))
	harness.SkiffPlane(h)
	harness.KubeletWith(h, socket, lines(h))
	return h
}

// group is a file of one of the host's groups, in the tree of a controller.
func group(h *harness.Host, controller, group, file string) string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		controller = ""
	}
	data, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, h.CgroupRoot, group, file))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(data))
}

const sleeper = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  nodeName: %q
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    resources: %s
`

func flat(t *testing.T) {
	h := configured(t, func(h *harness.Host) string {
		return fmt.Sprintf(`localStorageCapacityIsolation: false
enableControllerAttachDetach: false
cgroupsPerQOS: false
enforceNodeAllocatable: []
kubeletCgroups: %s/the-kubelet
featureGates: {DefaultPodSysctls: true}
defaultPodSysctls: {net.core.somaxconn: "777"}
`, h.CgroupRoot)
	})
	manifest(t, h, fmt.Sprintf(sleeper, "a", "", "{requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}"))
	h.Kubectl("wait", "--for=condition=Ready", "pod/a", "--timeout=90s")
	node := h.Kubectl("get", "node", "-o", "jsonpath={.items[0].metadata.annotations} {.items[0].status.capacity} {.items[0].status.allocatable}")
	for _, not := range []string{"ephemeral-storage", "controller-managed-attach-detach"} {
		if strings.Contains(node, not) {
			t.Errorf("the node has %s: %s", not, node)
		}
	}
	if out, err := h.Skiff("kubectl", "exec", "a", "--", "cat", "/proc/sys/net/core/somaxconn"); err != nil || strings.TrimSpace(out) != "777" {
		t.Errorf("the default sysctl: %q, %v", out, err)
	}
	if found, _ := filepath.Glob("/sys/fs/cgroup/*" + h.CgroupRoot + "/kubepods"); len(found) != 0 {
		t.Errorf("groups for pods: %q", found)
	}
	if pid := group(h, "memory", "the-kubelet", "cgroup.procs"); !strings.Contains(command(pid), "skiff-kubelet") {
		t.Errorf("in the kubelet's group is %q, %s", pid, command(pid))
	}
	// Containers are bounded, measured and resized all the same.
	limit := func() (bool, string) {
		out, err := h.Skiff("kubectl", "exec", "a", "--", "sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max")
		return err == nil && strings.TrimSpace(out) == "67108864", out
	}
	h.Kubectl("patch", "pod", "a", "--subresource=resize", "-p", `{"spec":{"containers":[{"name":"c","resources":{"limits":{"memory":"64Mi"}}}]}}`)
	harness.Eventually(t, 30*time.Second, "the limit of the container grows", limit)
	if out := h.Kubectl("get", "--raw", "/api/v1/nodes/"+h.Name+"/proxy/stats/summary"); !strings.Contains(out, `"workingSetBytes"`) || !strings.Contains(out, `"name": "a"`) {
		t.Errorf("statistics: %s", out)
	}
	if out := h.Kubectl("get", "--raw", "/api/v1/nodes/"+h.Name+"/proxy/stats/summary?only_cpu_and_memory=true"); !strings.Contains(out, `"name": "kubelet"`) {
		t.Errorf("the kubelet's own group is not measured: %s", out)
	}
	manifest(t, h, fmt.Sprintf(sleeper, "b", h.Name, "{requests: {ephemeral-storage: 1Ki}}"))
	harness.Eventually(t, 30*time.Second, "a pod that asks for storage is not taken in", func() (bool, string) {
		got := h.Kubectl("get", "pod", "b", "-o", "jsonpath={.status.phase} {.status.reason}")
		return got == "Failed OutOfephemeral-storage", got
	})
	h.Kubectl("delete", "pod", "a", "b", "--timeout=60s")
}

// command is the command line of a process.
func command(pid string) string {
	data, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil {
		return err.Error()
	}
	return strings.ReplaceAll(string(data), "\x00", " ")
}

func reservedMemory(t *testing.T) {
	h := configured(t, func(*harness.Host) string {
		return "featureGates: {QOSReserved: true}\nqosReserved: {memory: 50%}\n"
	})
	left := func(tier string) int64 {
		text := group(h, "memory", "kubepods/"+tier, "memory.limit_in_bytes")
		if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
			text = group(h, "memory", "kubepods/"+tier, "memory.max")
		}
		bytes, _ := strconv.ParseInt(text, 10, 64)
		return bytes
	}
	const mi = 1 << 20
	manifest(t, h, fmt.Sprintf(sleeper, "besteffort", "", "{}"))
	h.Kubectl("wait", "--for=condition=Ready", "pod/besteffort", "--timeout=90s")
	all := left("besteffort")
	if all == 0 || left("burstable") != all {
		t.Errorf("nothing is requested, but burstable pods have %d, besteffort ones %d", left("burstable"), all)
	}
	manifest(t, h, fmt.Sprintf(sleeper, "guaranteed", "", "{limits: {cpu: 50m, memory: 64Mi}}"))
	manifest(t, h, fmt.Sprintf(sleeper, "burstable", "", "{requests: {memory: 32Mi}}"))
	h.Kubectl("wait", "--for=condition=Ready", "pod/guaranteed", "pod/burstable", "--timeout=60s")
	if b, o := left("burstable"), left("besteffort"); b != all-32*mi || o != all-48*mi {
		t.Errorf("of %d burstable pods have %d, besteffort ones %d", all, b, o)
	}
	h.Kubectl("delete", "pod", "guaranteed", "burstable", "--timeout=60s")
	harness.Eventually(t, 30*time.Second, "what was reserved is given back", func() (bool, string) {
		return left("burstable") == all && left("besteffort") == all, fmt.Sprint(left("burstable"), left("besteffort"))
	})
}
