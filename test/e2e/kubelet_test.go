//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-node/skiff/test/harness"
)

// TestKubelet does with pods what the kubelet alone has to get right.
func TestKubelet(t *testing.T) {
	h := harness.NewHost(t)
	h.Up()
	t.Run("resize", func(t *testing.T) { resize(t, h) })
	t.Run("pod-level resize", func(t *testing.T) { resizePodLevel(t, h) })
	t.Run("preemption", func(t *testing.T) { preemption(t, h) })
	t.Run("restart all", func(t *testing.T) { restartAll(t, h) })
	t.Run("image volume", func(t *testing.T) { imageVolume(t, h) })
	t.Run("post start", func(t *testing.T) { postStart(t, h) })
	t.Run("sysctls", func(t *testing.T) { sysctls(t, h) })
}

const resizePod = `
apiVersion: v1
kind: Pod
metadata: {name: elastic}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: soft
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
  - name: hard
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}]
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 100m, memory: 32Mi}}
`

// resize changes limits of running containers and reads them in their cgroups.
func resize(t *testing.T, h *harness.Host) {
	manifest(t, h, resizePod)
	h.Kubectl("wait", "--for=condition=Ready", "pod/elastic", "--timeout=60s")
	field := func(path string) string {
		return strings.TrimSpace(h.Kubectl("get", "pod", "elastic", "-o", "jsonpath="+path))
	}
	limit := func(container string) string {
		out, err := h.Skiff("kubectl", "exec", "elastic", "-c", container, "--", "sh", "-c",
			"cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max")
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(out)
	}
	before := field("{.status.containerStatuses[*].restartCount} {.metadata.generation} {.status.observedGeneration}")
	if before != "0 0 1 1" || limit("soft") != "33554432" {
		t.Fatalf("before: %s, limit %s", before, limit("soft"))
	}
	change := func(container, memory, cpu string) {
		h.Kubectl("patch", "pod", "elastic", "--subresource=resize", "-p", fmt.Sprintf(
			`{"spec":{"containers":[{"name":%q,"resources":{"limits":{"memory":%q,"cpu":%q}}}]}}`, container, memory, cpu))
	}
	change("soft", "64Mi", "200m")
	harness.Eventually(t, 30*time.Second, "the limit of the running container grows", func() (bool, string) {
		got := limit("soft") + " " + field("{.status.containerStatuses[1].resources.limits.memory} {.status.containerStatuses[*].restartCount}")
		return got == "67108864 64Mi 0 0", got
	})
	change("soft", "24Mi", "200m")
	harness.Eventually(t, 30*time.Second, "and shrinks", func() (bool, string) { return limit("soft") == "25165824", limit("soft") })
	change("hard", "64Mi", "100m")
	harness.Eventually(t, 60*time.Second, "where the policy says so the container is restarted", func() (bool, string) {
		got := limit("hard") + " " + field("{.status.containerStatuses[*].restartCount}")
		return got == "67108864 1 0", got
	})
	h.Kubectl("patch", "pod", "elastic", "--subresource=resize", "-p",
		`{"spec":{"containers":[{"name":"soft","resources":{"requests":{"cpu":"900"},"limits":{"cpu":"900"}}}]}}`)
	pending := `{.status.conditions[?(@.type=="PodResizePending")].reason}`
	harness.Eventually(t, 30*time.Second, "what the node does not have is not granted", func() (bool, string) {
		return field(pending) == "Deferred", field("{.status.conditions}")
	})
	h.Kubectl("patch", "pod", "elastic", "--subresource=resize", "-p",
		`{"spec":{"containers":[{"name":"soft","resources":{"requests":{"cpu":"50m"},"limits":{"cpu":"200m"}}}]}}`)
	harness.Eventually(t, 30*time.Second, "taken back", func() (bool, string) {
		return field(pending) == "" && field(`{.status.conditions[?(@.type=="PodResizeInProgress")].status}`) == "", field("{.status.conditions}")
	})
	events := h.Kubectl("get", "events", "--field-selector=involvedObject.name=elastic", "-o", "jsonpath={.items[*].reason}")
	for _, want := range []string{"ResizeStarted", "ResizeCompleted", "ResizeDeferred"} {
		if !strings.Contains(events, want) {
			t.Errorf("no event %s: %s", want, events)
		}
	}
	h.Kubectl("delete", "pod", "elastic", "--timeout=60s")
}

const resizeWholePod = `
apiVersion: v1
kind: Pod
metadata: {name: sum}
spec:
  terminationGracePeriodSeconds: 1
  resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
  containers:
  - {name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "exec sleep 1000"]}
`

// resizePodLevel changes the limits of a pod as a whole: the container that has none of its own gets them.
func resizePodLevel(t *testing.T, h *harness.Host) {
	manifest(t, h, resizeWholePod)
	h.Kubectl("wait", "--for=condition=Ready", "pod/sum", "--timeout=60s")
	state := func() string {
		out, err := h.Skiff("kubectl", "exec", "sum", "--", "sh", "-c",
			"cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max")
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(out) + " " + strings.TrimSpace(h.Kubectl("get", "pod", "sum", "-o",
			"jsonpath={.status.resources.limits.memory} {.status.containerStatuses[0].restartCount} {.status.conditions[?(@.type==\"PodResizeInProgress\")].status}"))
	}
	if got := state(); got != "67108864 64Mi 0" {
		t.Fatalf("before: %s", got)
	}
	h.Kubectl("patch", "pod", "sum", "--subresource=resize", "-p", `{"spec":{"resources":{"limits":{"memory":"128Mi"}}}}`)
	harness.Eventually(t, 30*time.Second, "the limit of the pod, and of its container, grows", func() (bool, string) {
		got := state()
		return got == "134217728 128Mi 0", got
	})
	h.Kubectl("delete", "pod", "sum", "--timeout=60s")
}

const preemptionPods = `
apiVersion: v1
kind: Pod
metadata: {name: modest}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "exec sleep 1000"], resources: {requests: {cpu: 10m}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "exec sleep 1000"], resources: {requests: {cpu: %[2]q}}}]
`

// preemption binds a critical pod to a node that is full: an ordinary one has to go, the one whose requests fit best.
func preemption(t *testing.T, h *harness.Host) {
	most := strings.TrimSpace(h.Kubectl("get", "node", h.Name, "-o", "jsonpath={.status.allocatable.cpu}"))
	cpus, err := resource.ParseQuantity(most)
	if err != nil {
		t.Fatal(err)
	}
	share := fmt.Sprintf("%dm", cpus.MilliValue()*6/10) // two of these do not fit
	manifest(t, h, fmt.Sprintf(preemptionPods, h.Name, share))
	h.Kubectl("wait", "--for=condition=Ready", "pod/modest", "pod/greedy", "--timeout=60s")
	manifest(t, h, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: vital, namespace: kube-system}
spec:
  nodeName: %s
  priorityClassName: system-node-critical
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "exec sleep 1000"], resources: {requests: {cpu: %q}}}]
`, h.Name, share))
	h.Kubectl("wait", "-n", "kube-system", "--for=condition=Ready", "pod/vital", "--timeout=60s")
	got := strings.TrimSpace(h.Kubectl("get", "pod", "greedy", "modest", "-o",
		`jsonpath={range .items[*]}{.status.phase} {.status.reason} {.status.conditions[?(@.type=="DisruptionTarget")].reason};{end}`))
	if got != "Failed Preempting TerminationByKubelet;Running  ;" {
		t.Errorf("after a critical pod: %q", got)
	}
	h.Kubectl("delete", "pod", "greedy", "modest", "--timeout=60s")
	h.Kubectl("delete", "pod", "-n", "kube-system", "vital", "--timeout=60s")
}

const restartAllPod = `
apiVersion: v1
kind: Pod
metadata: {name: phoenix}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: init, image: "localhost/skiff/busybox:v1", command: [sh, -c, "echo run >>/deck/inits"], volumeMounts: [{name: deck, mountPath: /deck}]}
  containers:
  - name: cause
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "test -e /deck/once && exec sleep 1000; touch /deck/once; sleep 2; exit 42"]
    restartPolicy: Never
    restartPolicyRules: [{action: RestartAllContainers, exitCodes: {operator: In, values: [42]}}]
    volumeMounts: [{name: deck, mountPath: /deck}]
  - {name: other, image: "localhost/skiff/busybox:v1", command: [sh, -c, "exec sleep 1000"], volumeMounts: [{name: deck, mountPath: /deck}]}
  volumes: [{name: deck, emptyDir: {}}]
`

// restartAll: one container's exit code restarts the pod in place: init containers run again, address and volumes stay.
func restartAll(t *testing.T, h *harness.Host) {
	manifest(t, h, restartAllPod)
	harness.Eventually(t, 60*time.Second, "all containers were restarted", func() (bool, string) {
		got := strings.TrimSpace(h.Kubectl("get", "pod", "phoenix", "-o",
			"jsonpath={.status.phase} {.status.initContainerStatuses[0].restartCount} {.status.containerStatuses[*].restartCount} {.status.containerStatuses[*].ready}"))
		return got == "Running 1 1 1 true true", got
	})
	if got := strings.TrimSpace(h.Kubectl("exec", "phoenix", "-c", "other", "--", "cat", "/deck/inits")); got != "run\nrun" {
		t.Errorf("init container: %q", got)
	}
	h.Kubectl("delete", "pod", "phoenix", "--timeout=60s")
}

const imageVolumePod = `
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    volumeMounts: [{name: data, mountPath: /data}]
  volumes: [{name: data, image: {reference: "localhost/skiff/probe:v1", pullPolicy: IfNotPresent}}]
`

func imageVolume(t *testing.T, h *harness.Host) {
	manifest(t, h, imageVolumePod)
	h.Kubectl("wait", "--for=condition=Ready", "pod/reader", "--timeout=60s")
	out := h.Kubectl("exec", "reader", "--", "sh", "-c", "ls /data; touch /data/x 2>/dev/null || echo read-only")
	if !strings.Contains(out, "probe") || !strings.Contains(out, "read-only") {
		t.Errorf("the image's files: %q", out)
	}
	if got := strings.TrimSpace(h.Kubectl("get", "pod", "reader", "-o", "jsonpath={.status.containerStatuses[0].image}")); got != "localhost/skiff/busybox:v1" {
		t.Errorf("image in the status: %s", got)
	}
	h.Kubectl("delete", "pod", "reader", "--timeout=60s")
}

const postStartPod = `
apiVersion: v1
kind: Pod
metadata: {name: slowly}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    lifecycle: {postStart: {exec: {command: [sh, -c, "touch /v/begun; until test -e /v/go; do sleep 0.1; done"]}}}
    volumeMounts: [{name: v, mountPath: /v}]
  volumes: [{name: v, emptyDir: {}}]
`

// postStart: as long as the hook runs the container is not shown as running.
func postStart(t *testing.T, h *harness.Host) {
	manifest(t, h, postStartPod)
	uid := strings.TrimSpace(h.Kubectl("get", "pod", "slowly", "-o", "jsonpath={.metadata.uid}"))
	volume := h.Path("/var/lib/skiff/kubelet/pods/"+uid+"/volumes/kubernetes.io~empty-dir/v") + "/"
	harness.Eventually(t, 60*time.Second, "the hook runs", func() (bool, string) {
		_, err := os.Stat(volume + "begun")
		return err == nil, fmt.Sprint(err)
	})
	expect(t, h, "Pending ContainerCreating", "get", "pod", "slowly", "-o", "jsonpath={.status.phase} {.status.containerStatuses[0].state.waiting.reason}")
	if err := os.WriteFile(volume+"go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	h.Kubectl("wait", "--for=condition=Ready", "pod/slowly", "--timeout=60s")
	h.Kubectl("delete", "pod", "slowly", "--timeout=60s")
}

func sysctls(t *testing.T, h *harness.Host) {
	pod := func(name, sysctl, value string) {
		manifest(t, h, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  securityContext: {sysctls: [{name: %s, value: "%s"}]}
  containers: [{name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"]}]
`, name, sysctl, value))
	}
	pod("safe", "net.ipv4.ip_unprivileged_port_start", "80")
	expect(t, h, "80", "logs", "safe")
	pod("unsafe", "kernel.shmmax", "1000000")
	expect(t, h, "Failed SysctlForbidden", "get", "pod", "unsafe", "-o", "jsonpath={.status.phase} {.status.reason}")
	h.Kubectl("delete", "pod", "safe", "unsafe", "--timeout=60s")
}
