//go:build e2e

package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

const evictionPods = `
apiVersion: v1
kind: Pod
metadata: {name: done}
spec:
  nodeName: %[1]s
  restartPolicy: Never
  containers: [{name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "echo finished"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: layer}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "dd if=/dev/zero of=/big bs=1048576 count=100; exec sleep 1000"]}]
---
apiVersion: v1
kind: Pod
metadata: {name: volume}
spec:
  nodeName: %[1]s
  terminationGracePeriodSeconds: 1
  containers:
  - {name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "until [ -e /v/go ]; do sleep 0.1; done; dd if=/dev/zero of=/v/big bs=1048576 count=40; exec sleep 1000"], volumeMounts: [{name: v, mountPath: /v}]}
  volumes: [{name: v, emptyDir: {}}]
`

// TestEvictionByFileSystem fills the node's disk where images and layers have one of their own: the pod has to go that has filled it, not
// the one that takes more of the other, and containers of finished pods, which are on the other, stay.
func TestEvictionByFileSystem(t *testing.T) {
	t.Parallel()
	h := harness.NewHost(t)
	socket := harness.SkiffCRI(h, filepath.Join(h.BinDir, "images", "busybox.tar"))
	harness.SkiffPlane(h)
	h.MustRun("sh", "-c", "mkdir -p /var/lib/kubelet && mount -t tmpfs -o size=64m tmpfs /var/lib/kubelet")
	harness.KubeletWith(h, socket, "evictionHard: {nodefs.available: 40Mi}\n")
	manifest(t, h, fmt.Sprintf(evictionPods, h.Name))
	h.Kubectl("wait", "--for=condition=Ready", "pod/layer", "pod/volume", "--timeout=90s")
	h.Kubectl("wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/done", "--timeout=90s")
	h.Kubectl("exec", "volume", "--", "touch", "/v/go")
	state := func() string {
		return strings.TrimSpace(h.Kubectl("get", "pod", "done", "layer", "volume", "-o", `jsonpath={range .items[*]}{.status.phase} {.status.reason};{end}`))
	}
	harness.Eventually(t, 90*time.Second, "who has filled the disk is evicted", func() (bool, string) { return state() == "Succeeded ;Running ;Failed Evicted;", state() })
	if why := h.Kubectl("get", "pod", "volume", "-o", "jsonpath={.status.message}"); !strings.HasPrefix(why, "The node was low on resource: ephemeral-storage. Threshold quantity: 40Mi, available: ") {
		t.Errorf("message %q", why)
	}
	if out := h.Kubectl("logs", "done"); out != "finished\n" {
		t.Errorf("logs of the pod that has finished: %q", out)
	}
	harness.Eventually(t, time.Minute, "the node says so", func() (bool, string) {
		got := h.Kubectl("get", "node", h.Name, "-o", `jsonpath={.status.conditions[?(@.type=="DiskPressure")].status}`)
		return got == "True", got
	})
	metrics := h.Kubectl("get", "--raw", "/api/v1/nodes/"+h.Name+"/proxy/metrics")
	if want := `kubelet_evictions{eviction_signal="nodefs.available"} 1`; !strings.Contains(metrics, want) {
		t.Errorf("no %s", want)
	}
}
