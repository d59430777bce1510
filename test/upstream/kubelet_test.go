//go:build upstream

package upstream

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/skiff-node/skiff/test/harness"
)

// kubeletConfig is that of a standalone kubelet whose API anybody on the host may use.
const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
featureGates: {PodAndContainerStatsFromCRI: true}
containerRuntimeEndpoint: unix://%s
staticPodPath: /etc/kubernetes/manifests
cgroupRoot: %s
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
enableDebuggingHandlers: true
`

// web is a static pod that is probed in three ways and keeps a file in a volume.
const web = `apiVersion: v1
kind: Pod
metadata: {name: web, namespace: default}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - {name: prepare, image: localhost/skiff/busybox:v1, imagePullPolicy: Never, command: [sh, -c, "echo ahoy >/deck/greeting"], volumeMounts: [{name: deck, mountPath: /deck}]}
  containers:
  - name: server
    image: localhost/skiff/probe:v1
    imagePullPolicy: Never
    args: [serve, http=8080]
    resources: {requests: {cpu: 20m, memory: 16Mi}, limits: {memory: 64Mi}}
    volumeMounts: [{name: deck, mountPath: /deck}]
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}
    livenessProbe: {exec: {command: [/probe, cat, /deck/greeting]}, periodSeconds: 1}
  volumes: [{name: deck, emptyDir: {}}]
`

const counter = `apiVersion: v1
kind: Pod
metadata: {name: counter, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - {name: count, image: localhost/skiff/probe:v1, imagePullPolicy: Never, args: [count, 20ms]}
`

// node is a host with an upstream kubelet.
type node struct {
	*testing.T
	h      *harness.Host
	client *http.Client
}

// upstreamKubelet starts the upstream kubelet on the runtime, with that configuration.
func upstreamKubelet(t *testing.T, h *harness.Host, r runtime, config string) *node {
	t.Helper()
	binary, err := exec.LookPath("kubelet")
	if err != nil {
		t.Fatalf("no upstream kubelet on the PATH: build k8s.io/kubernetes/cmd/kubelet at v1.37: %v", err)
	}
	write(t, h, "/etc/kubernetes/kubelet.yaml", fmt.Sprintf(config, r.socket, h.CgroupRoot))
	write(t, h, "/etc/kubernetes/manifests/.keep", "")
	harness.Daemon(h, "kubelet", binary, "--config=/etc/kubernetes/kubelet.yaml", "--hostname-override="+h.Name, "--node-ip="+h.IP)
	return newNode(t, h)
}

// newNode waits for the kubelet of a host.
func newNode(t *testing.T, h *harness.Host) *node {
	t.Helper()
	n := &node{T: t, h: h}
	n.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: harness.Dial(h), TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} // the kubelet signs its own
	harness.Eventually(t, 2*time.Minute, "the kubelet is healthy", func() (bool, string) {
		body, err := n.get("/healthz")
		return err == nil && strings.TrimSpace(body) == "ok", fmt.Sprint(body, err)
	})
	return n
}

// get asks the kubelet's API.
func (n *node) get(path string) (string, error) { return n.request(http.MethodGet, path) }

func (n *node) request(method, path string) (string, error) {
	req, err := http.NewRequest(method, "https://127.0.0.1:10250"+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := n.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", resp.Status, body)
	}
	return string(body), err
}

// pod asks the kubelet for a pod; nil when it has none of that name.
func (n *node) pod(name string) (*v1.Pod, error) {
	body, err := n.get("/pods")
	if err != nil {
		return nil, err
	}
	var list v1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		return nil, err
	}
	for i := range list.Items {
		if list.Items[i].Name == name+"-"+n.h.Name {
			return &list.Items[i], nil
		}
	}
	return nil, nil
}

// ready waits until a pod is Ready and its first container has been restarted so often.
func (n *node) ready(name string, restarts int32) *v1.Pod {
	n.Helper()
	var pod *v1.Pod
	harness.Eventually(n, 2*time.Minute, "pod "+name+" is ready", func() (bool, string) {
		p, err := n.pod(name)
		if err != nil || p == nil {
			return false, fmt.Sprint(err)
		}
		pod = p
		raw, _ := json.Marshal(p.Status)
		for _, c := range p.Status.Conditions {
			if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
				return p.Status.ContainerStatuses[0].RestartCount == restarts, string(raw)
			}
		}
		return false, string(raw)
	})
	return pod
}

// exec runs a command by the kubelet's streaming API, with input.
func (n *node) exec(pod *v1.Pod, input string, command ...string) string {
	n.Helper()
	target := url.URL{Scheme: "https", Host: "127.0.0.1:10250", Path: "/exec/default/" + pod.Name + "/" + pod.Spec.Containers[0].Name,
		RawQuery: url.Values{"command": command, "input": {"1"}, "output": {"1"}, "error": {"1"}}.Encode()}
	config := &rest.Config{Host: target.Host, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	executor, err := remotecommand.NewSPDYExecutor(config, http.MethodPost, &target)
	if err != nil {
		n.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	// The executor takes no dialer, and dials on the thread that calls it.
	err = n.h.InNetwork(func() error {
		return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(input), Stdout: &out, Stderr: &errs})
	})
	if err != nil {
		n.Fatalf("exec %v: %v: %s", command, err, errs.String())
	}
	return out.String()
}

// logs reads a container's log until it has so many lines.
func (n *node) logs(pod *v1.Pod, least int) []string {
	n.Helper()
	var out []string
	harness.Eventually(n, time.Minute, "the log of "+pod.Name, func() (bool, string) {
		body, err := n.get("/containerLogs/default/" + pod.Name + "/" + pod.Spec.Containers[0].Name)
		out = strings.Fields(body)
		return err == nil && len(out) >= least, fmt.Sprint(body, err)
	})
	return out
}

// TestUpstreamKubelet runs static pods on skiff's socket by the upstream kubelet: probes, exec, logs, restarts, statistics.
func TestUpstreamKubelet(t *testing.T) {
	h := harness.NewHost(t)
	n := upstreamKubelet(t, h, skiffCRI(t, h), kubeletConfig)
	write(t, h, "/etc/kubernetes/manifests/web.yaml", web)
	write(t, h, "/etc/kubernetes/manifests/counter.yaml", counter)
	pod, counting := n.ready("web", 0), n.ready("counter", 0)
	if c := pod.Status.ContainerStatuses[0]; c.Image != pod.Spec.Containers[0].Image || !strings.Contains(c.ImageID, "@sha256:") {
		t.Errorf("the status says image %s, imageID %s; want the tag and a digest, as on containerd", c.Image, c.ImageID)
	}

	if body, err := n.exchange(pod.Status.PodIP + ":8080"); err != nil || strings.TrimSpace(body) != pod.Name {
		t.Errorf("the server says %q, %v; want its host name %s", body, err, pod.Name)
	}
	if out := n.exec(pod, "", "/probe", "cat", "/deck/greeting"); strings.TrimSpace(out) != "ahoy" {
		t.Errorf("exec says %q", out)
	}
	for i, line := range n.logs(counting, 50) {
		if line != fmt.Sprint(i) {
			t.Fatalf("line %d of the log: %q", i, line)
		}
	}
	n.statistics("web", "counter")

	// The liveness probe finds the file gone: the container is restarted, and gone for good is the file.
	n.exec(pod, "", "/probe", "rm", "/deck/greeting")
	harness.Eventually(t, time.Minute, "the liveness probe restarts the container", func() (bool, string) {
		p, err := n.pod("web")
		if err != nil || p == nil {
			return false, fmt.Sprint(err)
		}
		return p.Status.ContainerStatuses[0].RestartCount > 0, fmt.Sprint(p.Status.ContainerStatuses[0])
	})

	for _, name := range []string{"web", "counter"} {
		if err := os.Remove(h.Path("/etc/kubernetes/manifests/" + name + ".yaml")); err != nil {
			t.Fatal(err)
		}
	}
	harness.Eventually(t, time.Minute, "the pods are gone", func() (bool, string) {
		web, err := n.pod("web")
		counter, cerr := n.pod("counter")
		return err == nil && cerr == nil && web == nil && counter == nil, fmt.Sprint(web, counter, err, cerr)
	})
}

// exchange asks a pod's HTTP server from the host.
func (n *node) exchange(address string) (string, error) {
	resp, err := n.client.Get("http://" + address + "/")
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// statistics asks that the summary and the cadvisor metrics know the pods, their network included.
func (n *node) statistics(names ...string) {
	n.Helper()
	for _, name := range names {
		harness.Eventually(n, 2*time.Minute, "statistics of "+name, func() (bool, string) {
			body, err := n.get("/stats/summary")
			var summary stats.Summary
			if err == nil {
				err = json.Unmarshal([]byte(body), &summary)
			}
			for _, p := range summary.Pods {
				if p.PodRef.Name == name+"-"+n.h.Name {
					return complete(p), body
				}
			}
			return false, fmt.Sprint(body, err)
		})
		want := fmt.Sprintf("pod=%q", name+"-"+n.h.Name)
		for _, metric := range []string{"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_network_receive_bytes_total"} {
			n.metric(metric, want)
		}
	}
}

// metric asks that /metrics/cadvisor has the metric with a label.
func (n *node) metric(metric, label string) {
	n.Helper()
	harness.Eventually(n, time.Minute, metric+"{"+label+"}", func() (bool, string) {
		body, err := n.get("/metrics/cadvisor")
		for line := range strings.Lines(body) {
			if strings.HasPrefix(line, metric+"{") && strings.Contains(line, label) {
				return true, ""
			}
		}
		return false, fmt.Sprintf("%d bytes of metrics, %v", len(body), err)
	})
}

// complete says whether every part of a pod's statistics is there.
func complete(p stats.PodStats) bool {
	whole := p.CPU != nil && p.CPU.UsageCoreNanoSeconds != nil && p.CPU.UsageNanoCores != nil && p.Memory != nil && p.Memory.WorkingSetBytes != nil &&
		p.Network != nil && p.Network.RxBytes != nil && p.EphemeralStorage != nil && p.ProcessStats != nil && len(p.Containers) == 1
	return whole && p.Containers[0].CPU != nil && p.Containers[0].Memory != nil && p.Containers[0].Rootfs != nil && p.Containers[0].Logs != nil
}
