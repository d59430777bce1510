//go:build upstream

package upstream

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// tenant has volumes that one kubelet makes and the other has to find: a service account's token and a secret in memory, and
// a directory in memory.
const tenant = `
apiVersion: v1
kind: Secret
metadata: {name: hush}
stringData: {password: parrot}
---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/skiff/busybox:v1
    imagePullPolicy: Never
    command: [sh, -c, "exec sleep 1000"]
    volumeMounts: [{name: hush, mountPath: /hush}, {name: scratch, mountPath: /scratch}]
  volumes: [{name: hush, secret: {secretName: hush}}, {name: scratch, emptyDir: {medium: Memory}}]
`

// TestTakeOver changes a node with running pods from skiff's kubelet to upstream's and back. No container restarts, and each
// kubelet takes down what the other has made.
func TestTakeOver(t *testing.T) {
	theirs, err := exec.LookPath("kubelet")
	if err != nil {
		t.Fatalf("no upstream kubelet on the PATH: %v", err)
	}
	h := harness.NewHost(t)
	ours := []string{filepath.Join(h.BinDir, "skiff"), "kubelet"}
	h.MustRun("mount", "--make-rshared", "/") // as on most machines; else upstream's kubelet mounts its root anew, over what is mounted below
	r := skiffCRI(t, h)
	skiffPlane(t, h)
	write(t, h, "/etc/kubernetes/kubelet.yaml", harness.KubeletConfig(h, r.socket))
	write(t, h, harness.StaticPods+"/.keep", "")
	stop := takeOver(t, h, ours...)
	harness.Eventually(t, time.Minute, "the namespace has its service account", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "serviceaccount", "default")
		return err == nil, out
	})
	for _, name := range []string{"first", "second"} {
		write(t, h, "/root/tenant.yaml", fmt.Sprintf(tenant, name))
		h.Kubectl("apply", "-f", "/root/tenant.yaml")
		h.Kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=90s")
	}
	stop()
	stop = takeOver(t, h, theirs)
	h.Kubectl("delete", "pod", "first", "--timeout=90s")
	write(t, h, "/root/tenant.yaml", fmt.Sprintf(tenant, "third"))
	h.Kubectl("apply", "-f", "/root/tenant.yaml")
	h.Kubectl("wait", "--for=condition=Ready", "pod/third", "--timeout=90s")
	stop()
	takeOver(t, h, ours...)
	if out := h.Kubectl("get", "pods", "-o", "jsonpath={range .items[*]}{.metadata.name}={.status.containerStatuses[0].restartCount} {end}"); strings.TrimSpace(out) != "second=0 third=0" {
		t.Errorf("restarts: %s", out)
	}
	h.Kubectl("delete", "pod", "second", "third", "--timeout=90s")
	if out := h.MustRun("sh", "-c", "grep /var/lib/kubelet/pods/ /proc/self/mountinfo || true"); out != "" {
		t.Errorf("mounts left:\n%s", out)
	}
}

// takeOver starts a kubelet and waits until the node is Ready by its word. The returned function kills it.
func takeOver(t *testing.T, h *harness.Host, argv ...string) (stop func()) {
	t.Helper()
	before := heartbeat(h)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Command(ctx, argv[0], append(argv[1:], "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/var/lib/skiff/pki/kubelet.kubeconfig",
		"--hostname-override="+h.Name, "--node-ip="+h.IP)...)
	log, err := os.CreateTemp(h.Dir, "kubelet-*.log")
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	stop = func() {
		if !ended {
			ended = true
			cancel() // kills it
			_ = cmd.Wait()
		}
		if raw, _ := os.ReadFile(log.Name()); t.Failed() {
			t.Logf("--- end of a kubelet's log\n%s", raw[max(0, len(raw)-4000):])
		}
	}
	t.Cleanup(stop)
	harness.Eventually(t, 2*time.Minute, "the node is Ready by the new kubelet", func() (bool, string) {
		now := heartbeat(h)
		return now != before && strings.HasPrefix(now, "True "), now
	})
	return stop
}

// heartbeat is whether the node is Ready, and when that was last said.
func heartbeat(h *harness.Host) string {
	out, err := h.Skiff("kubectl", "get", "node", h.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}`)
	if err != nil {
		return ""
	}
	return out
}
