//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// volumesPod has a volume of each kind that the kubelet fills itself, a subPath, limits, and prints what it sees.
const volumesPod = `
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {key: one, other: two}
---
apiVersion: v1
kind: Secret
metadata: {name: hush}
stringData: {password: parrot}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {ship: skiff}}
spec:
  securityContext: {fsGroup: 4242}
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    resources: {requests: {cpu: 50m, memory: 16Mi}, limits: {cpu: 200m, memory: 64Mi}}
    volumeMounts:
    - {name: conf, mountPath: /conf}
    - {name: conf, mountPath: /one-file, subPath: other}
    - {name: hush, mountPath: /hush}
    - {name: all, mountPath: /all}
    - {name: disk, mountPath: /disk}
    - {name: disk, mountPath: /below, subPath: a/b}
    - {name: memory, mountPath: /memory}
  volumes:
  - {name: conf, configMap: {name: conf}}
  - {name: hush, secret: {secretName: hush, defaultMode: 0400}}
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 1Mi}}
  - name: all
    projected:
      sources:
      - serviceAccountToken: {path: token, audience: harbour}
      - downwardAPI:
          items:
          - {path: labels, fieldRef: {fieldPath: metadata.labels}}
          - {path: memory, resourceFieldRef: {containerName: shell, resource: limits.memory, divisor: 1Mi}}
      - configMap: {name: absent, optional: true}
`

// TestVolumes looks into a pod's volumes, changes what they show, and sees them go.
func TestVolumes(t *testing.T) {
	h := harness.NewHost(t)
	h.Up()
	manifest(t, h, volumesPod)
	h.Kubectl("wait", "--for=condition=Ready", "pod/volumes", "--timeout=60s")
	sh := func(script string) string {
		return strings.TrimSpace(h.Kubectl("exec", "volumes", "--", "sh", "-c", script))
	}
	for script, want := range map[string]string{
		"cat /conf/key":                               "one",
		"cat /one-file":                               "two",
		"cat /hush/password":                          "parrot",
		"cat /all/labels":                             `ship="skiff"`,
		"cat /all/memory":                             "64",
		"cut -d. -f1 /all/token | wc -l":              "1",
		"stat -c %g /disk":                            "4242",
		"touch /below/x && ls /disk/a/b":              "x",
		"touch /conf/x 2>/dev/null || echo read-only": "read-only",
		"dd if=/dev/zero of=/memory/x bs=1k count=2000 2>/dev/null || echo full": "full",
		"grep -c ' /hush tmpfs\\| /all tmpfs' /proc/mounts":                      "2",
		"ls /var/run/secrets/kubernetes.io/serviceaccount":                       "ca.crt\nnamespace\ntoken",
	} {
		if got := sh(script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	h.Kubectl("patch", "configmap", "conf", "-p", `{"data":{"key":"changed"}}`)
	h.Kubectl("label", "pod", "volumes", "ship=yacht", "--overwrite")
	harness.Eventually(t, 30*time.Second, "the volumes show what changed", func() (bool, string) {
		got := sh("cat /conf/key /all/labels")
		return got == "changedship=\"yacht\"", got
	})
	uid := strings.TrimSpace(h.Kubectl("get", "pod", "volumes", "-o", "jsonpath={.metadata.uid}"))
	pod := h.Path("/var/lib/skiff/kubelet/pods/" + uid)
	if _, err := os.Stat(filepath.Join(pod, "volumes", "kubernetes.io~empty-dir", "disk")); err != nil {
		t.Error(err)
	}
	nodePages(t, h)
	h.Kubectl("delete", "pod", "volumes", "--timeout=60s")
	harness.Eventually(t, 30*time.Second, "the pod's directory is gone", func() (bool, string) {
		_, err := os.Stat(pod)
		return os.IsNotExist(err), fmt.Sprint(err)
	})
	missing(t, h)
	overflows(t, h)
}

// nodePages asks the kubelet through the API server's proxy for what operators look at.
func nodePages(t *testing.T, h *harness.Host) {
	node := strings.TrimSpace(h.Kubectl("get", "node", "-o", "jsonpath={.items[0].metadata.name}"))
	for path, want := range map[string]string{
		"stats/summary":    `"nodeName"`,
		"metrics/resource": `container_cpu_usage_seconds_total{container="shell",namespace="default",pod="volumes"}`,
		"metrics/cadvisor": `container_memory_working_set_bytes{container="shell"`,
		"metrics":          "kubelet_running_pods",
		"healthz":          "ok",
		"configz":          "kubeletconfig",
		"pods":             `"kind":"PodList"`,
	} {
		if out := h.Kubectl("get", "--raw", "/api/v1/nodes/"+node+"/proxy/"+path); !strings.Contains(out, want) {
			t.Errorf("%s: no %q in %.300s", path, want, out)
		}
	}
	// Without credentials nobody gets in.
	out := h.MustRun("curl", "-sk", "-o", "/dev/null", "-w", "%{http_code}", "https://127.0.0.1:10250/pods")
	if out != "401" {
		t.Errorf("without credentials: %s", out)
	}
	for _, field := range []string{"{.status.nodeInfo.containerRuntimeVersion}", "{.status.addresses[0].address}", "{.status.allocatable.memory}", "{.status.images[0].names[0]}"} {
		if h.Kubectl("get", "node", node, "-o", "jsonpath="+field) == "" {
			t.Errorf("node without %s", field)
		}
	}
}

// missing makes the object that a waiting pod needs.
func missing(t *testing.T, h *harness.Host) {
	manifest(t, h, `
apiVersion: v1
kind: Pod
metadata: {name: waits}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: localhost/skiff/busybox:v1, command: [sh, -c, "cat /v/k; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, configMap: {name: late}}]
`)
	harness.Eventually(t, 30*time.Second, "an event says what is missing", func() (bool, string) {
		out := h.Kubectl("get", "events", "--field-selector", "involvedObject.name=waits,reason=FailedMount", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(out, `MountVolume.SetUp failed for volume "v" : configmap "late" not found`), out
	})
	h.Kubectl("create", "configmap", "late", "--from-literal=k=here")
	h.Kubectl("wait", "--for=condition=Ready", "pod/waits", "--timeout=10s")
	h.Kubectl("delete", "pod", "waits", "--timeout=60s")
}

// overflows fills an emptyDir beyond its limit: the pod has to go.
func overflows(t *testing.T, h *harness.Host) {
	manifest(t, h, `
apiVersion: v1
kind: Pod
metadata: {name: greedy}
spec:
  terminationGracePeriodSeconds: 0
  restartPolicy: Never
  containers:
  - {name: c, image: localhost/skiff/busybox:v1, command: [sh, -c, "dd if=/dev/zero of=/v/x bs=1k count=4000; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, emptyDir: {sizeLimit: 1Mi}}]
`)
	harness.Eventually(t, 60*time.Second, "the pod is evicted", func() (bool, string) {
		out := h.Kubectl("get", "pod", "greedy", "-o", "jsonpath={.status.phase} {.status.reason}: {.status.message}")
		return strings.HasPrefix(out, `Failed Evicted: Usage of EmptyDir volume "v" exceeds the limit "1Mi".`), out
	})
	h.Kubectl("delete", "pod", "greedy", "--timeout=60s")
}

// manifest applies YAML.
func manifest(t *testing.T, h *harness.Host, text string) {
	t.Helper()
	file := filepath.Join(h.Dir, "manifest.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	h.Kubectl("apply", "-f", file)
}
