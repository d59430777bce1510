//go:build upstream

package upstream

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// workload is what every combination of parts runs.
const workload = `
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {greeting: ahoy}
---
apiVersion: v1
kind: Secret
metadata: {name: hush}
stringData: {password: parrot}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers:
      - {name: prepare, image: localhost/skiff/busybox:v1, imagePullPolicy: Never, command: [sh, -c, "cp /conf/greeting /deck/"], volumeMounts: [{name: deck, mountPath: /deck}, {name: conf, mountPath: /conf}]}
      - {name: sidecar, image: localhost/skiff/probe:v1, imagePullPolicy: Never, restartPolicy: Always, args: [count, 100ms]}
      containers:
      - name: server
        image: localhost/skiff/probe:v1
        imagePullPolicy: Never
        args: [serve, http=8080]
        env: [{name: PASSWORD, valueFrom: {secretKeyRef: {name: hush, key: password}}}, {name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]
        resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {memory: 64Mi}}
        volumeMounts: [{name: deck, mountPath: /deck}]
        startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 30}
        readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
        livenessProbe: {exec: {command: [/probe, cat, /deck/greeting]}, periodSeconds: 1}
      volumes: [{name: deck, emptyDir: {}}, {name: conf, configMap: {name: conf}}]
---
apiVersion: batch/v1
kind: Job
metadata: {name: sum}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: sum, image: localhost/skiff/busybox:v1, imagePullPolicy: Never, command: [sh, -c, "echo $((40+2))"]}]
`

// TestCombinations runs skiff's kubelet on containerd's socket and on skiff's, under the upstream control plane and under
// skiff's: the same pods in each.
func TestCombinations(t *testing.T) {
	for _, plane := range []struct {
		name  string
		start func(*testing.T, *harness.Host)
	}{{"skiff", skiffPlane}, {"upstream", upstreamPlane}} {
		for _, cri := range []struct {
			name  string
			start func(harness.TB, *harness.Host) runtime
		}{{"skiff", skiffCRI}, {"containerd", containerd}} {
			t.Run(plane.name+" control plane, "+cri.name+" CRI", func(t *testing.T) {
				h := harness.NewHost(t)
				r := cri.start(t, h)
				plane.start(t, h)
				combination(t, h, r)
			})
		}
	}
}

// combination joins the node and runs the workload.
func combination(t *testing.T, h *harness.Host, r runtime) {
	harness.Kubelet(h, r.socket, filepath.Join(h.BinDir, "skiff"), "kubelet")
	harness.Eventually(t, 2*time.Minute, "the node is Ready", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "node", h.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "True", out
	})
	harness.Eventually(t, time.Minute, "the namespace has its service account", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "serviceaccount", "default")
		return err == nil, out
	})
	write(t, h, "/root/workload.yaml", workload)
	h.Kubectl("apply", "-f", "/root/workload.yaml")
	h.Kubectl("rollout", "status", "deployment/web", "--timeout=120s")
	h.Kubectl("wait", "--for=condition=complete", "job/sum", "--timeout=60s")
	if out := h.Kubectl("logs", "job/sum"); strings.TrimSpace(out) != "42" {
		t.Errorf("the job says %q", out)
	}
	if out := h.Kubectl("exec", "deployment/web", "-c", "server", "--", "/probe", "env"); !strings.Contains(out, "PASSWORD=parrot") || !strings.Contains(out, "HOST_IP="+h.IP) {
		t.Errorf("the environment is %q", out)
	}
	pod := strings.Fields(h.Kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}"))[0]
	if out := h.Kubectl("logs", pod, "-c", "sidecar"); !strings.HasPrefix(out, "0\n1\n") {
		t.Errorf("the sidecar says %q", out)
	}
	h.Kubectl("exec", pod, "-c", "server", "--", "/probe", "rm", "/deck/greeting")
	harness.Eventually(t, 2*time.Minute, "the liveness probe restarts the server", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}")
		return err == nil && out != "" && out != "0", out
	})
	h.Kubectl("delete", "deployment,job", "--all", "--timeout=60s")
	harness.Eventually(t, time.Minute, "the pods are gone", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "pods", "-o", "name")
		return err == nil && strings.TrimSpace(out) == "", out
	})
}

// skiffPlane starts skiff's control plane, alone.
func skiffPlane(_ *testing.T, h *harness.Host) { harness.SkiffPlane(h) }

// upstreamPlane starts etcd and the upstream control plane, with the certificates that skiff's has made.
func upstreamPlane(t *testing.T, h *harness.Host) {
	path := map[string]string{}
	for _, name := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"} {
		binary, err := exec.LookPath(name)
		if err != nil {
			t.Fatalf("no upstream %s on the PATH: %v", name, err)
		}
		path[name] = binary
	}
	skiffPlane(t, h)
	h.MustRun("pkill", "-f", "^"+filepath.Join(h.BinDir, "skiff")+" server --disable-agent .*--node-name "+h.Name)
	harness.Eventually(t, time.Minute, "skiff's control plane has ended", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "--raw", "/readyz")
		return err != nil, out
	})
	const pki = "/var/lib/skiff/pki/"
	harness.Daemon(h, "etcd", path["etcd"], "--data-dir=/var/lib/skiff/upstream-etcd", "--listen-client-urls=http://127.0.0.1:12379", "--advertise-client-urls=http://127.0.0.1:12379", "--listen-peer-urls=http://127.0.0.1:12380")
	harness.Daemon(h, "apiserver", path["kube-apiserver"], "--etcd-servers=http://127.0.0.1:12379", "--secure-port=6443", "--advertise-address="+h.IP,
		"--service-cluster-ip-range=10.43.0.0/16", "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--client-ca-file="+pki+"ca.crt",
		"--tls-cert-file="+pki+"apiserver.crt", "--tls-private-key-file="+pki+"apiserver.key", "--kubelet-certificate-authority="+pki+"ca.crt",
		"--kubelet-client-certificate="+pki+"apiserver-kubelet-client.crt", "--kubelet-client-key="+pki+"apiserver-kubelet-client.key", "--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+pki+"sa.pub", "--service-account-signing-key-file="+pki+"sa.key")
	harness.Serving(h)
	harness.Daemon(h, "controllers", path["kube-controller-manager"], "--kubeconfig="+pki+"controller-manager.kubeconfig", "--use-service-account-credentials=true", "--leader-elect=false",
		"--allocate-node-cidrs=true", "--cluster-cidr=10.42.0.0/16", "--service-account-private-key-file="+pki+"sa.key", "--root-ca-file="+pki+"ca.crt")
	harness.Daemon(h, "scheduler", path["kube-scheduler"], "--kubeconfig="+pki+"scheduler.kubeconfig", "--leader-elect=false")
}
