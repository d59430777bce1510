//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// chaosKubelet is the configuration of a kubelet that runs alone beside CRI server and control plane.
const chaosKubelet = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/skiff/cri.sock
cgroupRoot: %s
evictionHard: {memory.available: 100Mi} # how full the machine's disk is does not matter
imageGCHighThresholdPercent: 100
authentication: {x509: {clientCAFile: /var/lib/skiff/pki/ca.crt}}
tlsCertFile: /var/lib/skiff/pki/kubelet-serving.crt
tlsPrivateKeyFile: /var/lib/skiff/pki/kubelet-serving.key
`

const chaosObjects = `
apiVersion: v1
kind: ConfigMap
metadata: {name: conf}
data: {greeting: ahoy}
---
apiVersion: v1
kind: Secret
metadata: {name: hush}
stringData: {password: parrot}
`

// steadyPod runs all the time, with volumes, an init container, a sidecar and all three kinds of probes.
const steadyPod = `
---
apiVersion: v1
kind: Pod
metadata: {name: steady-%d, labels: {app: steady}}
spec:
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: prepare, image: "localhost/skiff/busybox:v1", command: [sh, -c, "cp /conf/greeting /deck/"], volumeMounts: [{name: deck, mountPath: /deck}, {name: conf, mountPath: /conf}]}
  - {name: sidecar, image: "localhost/skiff/probe:v1", restartPolicy: Always, args: [count, 1s]}
  containers:
  - name: server
    image: localhost/skiff/probe:v1
    args: [serve, http=8080]
    resources: {requests: {cpu: 5m, memory: 8Mi}, limits: {memory: 64Mi}}
    volumeMounts: [{name: deck, mountPath: /deck}, {name: hush, mountPath: /hush}, {name: deck, mountPath: /below, subPath: a}]
    startupProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 60}
    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 2, failureThreshold: 5, timeoutSeconds: 5}
    livenessProbe: {exec: {command: [/probe, cat, /deck/greeting]}, periodSeconds: 10, failureThreshold: 5, timeoutSeconds: 10}
  volumes: [{name: deck, emptyDir: {}}, {name: conf, configMap: {name: conf}}, {name: hush, secret: {secretName: hush}}]
`

// passingPod comes and goes.
const passingPod = `
---
apiVersion: v1
kind: Pod
metadata: {name: passing-%d, labels: {app: passing}}
spec:
  restartPolicy: OnFailure
  terminationGracePeriodSeconds: 1
  initContainers:
  - {name: prepare, image: "localhost/skiff/busybox:v1", command: [sh, -c, "cp /conf/greeting /deck/"], volumeMounts: [{name: deck, mountPath: /deck}, {name: conf, mountPath: /conf}]}
  containers:
  - {name: c, image: "localhost/skiff/busybox:v1", command: [sh, -c, "%s"], volumeMounts: [{name: deck, mountPath: /deck}, {name: memory, mountPath: /memory}]}
  volumes: [{name: deck, emptyDir: {}}, {name: memory, emptyDir: {medium: Memory}}, {name: conf, configMap: {name: conf}}]
`

// chaos is a host with a kubelet that is killed again and again.
type chaos struct {
	*testing.T
	h *harness.Host
	// more are further lines of the kubelet's configuration.
	more string
	// passing counts the pods that were made to come and go.
	passing int
}

// TestKubeletChaos kills the kubelet a hundred times at random instants while pods come and go. No container of a pod that
// stays is restarted, none becomes unready, and in the end exactly what should be there is there.
func TestKubeletChaos(t *testing.T) {
	t.Parallel() // most of it is waiting
	h := harness.NewHost(t)
	c := &chaos{T: t, h: h}
	c.node()
	stop := c.kubelet(func(int) time.Duration { return time.Hour })
	c.ready()
	const steady = 20
	text := chaosObjects
	for i := range steady {
		text += fmt.Sprintf(steadyPod, i)
	}
	manifest(t, h, text)
	h.Kubectl("wait", "--for=condition=Ready", "pod", "-l", "app=steady", "--timeout=180s")
	before := c.steady()
	stop()

	const kills = 100
	var killed atomic.Int32
	done := make(chan struct{})
	stop = c.kubelet(func(n int) time.Duration {
		killed.Store(int32(n))
		if n == kills {
			close(done)
		}
		if n >= kills {
			return time.Hour
		}
		return time.Duration(50+rand.IntN(1200)) * time.Millisecond
	})
	defer stop()
	c.churn(done)
	t.Logf("killed %d times, %d pods came and went", killed.Load(), c.passing)

	h.Kubectl("delete", "pod", "-l", "app=passing", "--wait=false")
	harness.Eventually(t, 2*time.Minute, "the passing pods are gone", func() (bool, string) {
		out := h.Kubectl("get", "pods", "-l", "app=passing", "-o", "name")
		return strings.TrimSpace(out) == "", out
	})
	if after := c.steady(); after != before {
		t.Errorf("the steady pods were touched:\nbefore\n%s\nafter\n%s", before, after)
	}
	c.inventory(steady)
	h.Kubectl("delete", "pod", "-l", "app=steady", "--wait=false")
	harness.Eventually(t, 2*time.Minute, "the steady pods are gone", func() (bool, string) {
		out := h.Kubectl("get", "pods", "-o", "name")
		return strings.TrimSpace(out) == "", out
	})
	c.inventory(0)
}

// ready waits until pods can be made.
func (c *chaos) ready() {
	c.Helper()
	harness.Eventually(c, 2*time.Minute, "the node is Ready", func() (bool, string) {
		out, err := c.h.Skiff("kubectl", "get", "node", c.h.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "True", out
	})
	harness.Eventually(c, time.Minute, "the namespace has its service account", func() (bool, string) {
		out, err := c.h.Skiff("kubectl", "get", "serviceaccount", "default")
		return err == nil, out
	})
}

const cpuPod = `
---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    resources: {limits: {%s}}
`

// TestExclusiveCPUs: a Guaranteed pod that asks for a whole CPU has it for itself, and others are moved off it, also over
// restarts of the kubelet.
func TestExclusiveCPUs(t *testing.T) {
	t.Parallel() // most of it is waiting
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU cannot be divided")
	}
	h := harness.NewHost(t)
	c := &chaos{T: t, h: h, more: "cpuManagerPolicy: static\nreservedSystemCPUs: \"0\"\ncpuManagerReconcilePeriod: 1s\n"}
	c.node()
	var restarts atomic.Int32
	defer c.kubelet(func(n int) time.Duration { restarts.Store(int32(n)); return 15 * time.Second })()
	c.ready()
	on := func(pod string) string {
		out, err := h.Skiff("kubectl", "exec", pod, "--", "grep", "Cpus_allowed_list", "/proc/1/status")
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(strings.TrimPrefix(out, "Cpus_allowed_list:"))
	}
	runs := func(pod, want string) {
		t.Helper()
		harness.Eventually(t, time.Minute, pod+" runs on CPUs "+want, func() (bool, string) { got := on(pod); return got == want, got })
	}
	last := runtime.NumCPU() - 1
	all := fmt.Sprintf("0-%d", last)
	manifest(t, h, fmt.Sprintf(cpuPod, "shares", "memory: 32Mi"))
	h.Kubectl("wait", "--for=condition=Ready", "pod/shares", "--timeout=60s")
	runs("shares", all)
	manifest(t, h, fmt.Sprintf(cpuPod, "owns", `cpu: "1", memory: 32Mi`))
	h.Kubectl("wait", "--for=condition=Ready", "pod/owns", "--timeout=60s")
	own := on("owns")
	if own == "0" || strings.ContainsAny(own, "-,") {
		t.Errorf("its own CPU is %q", own)
	}
	harness.Eventually(t, time.Minute, "the other is moved off it", func() (bool, string) {
		got := on("shares")
		return got != all && got != own && !strings.Contains(got, "err"), got
	})
	before := restarts.Load()
	harness.Eventually(t, time.Minute, "the kubelet is killed and started again", func() (bool, string) {
		return restarts.Load() > before+1, fmt.Sprint(restarts.Load())
	})
	runs("owns", own)
	h.Kubectl("delete", "pod", "owns", "--timeout=60s")
	runs("shares", all)
}

// TestAlignedPod: with all managers at work a Guaranteed pod gets its own CPU and memory of one NUMA node, and one that asks for
// what no node has is refused in upstream's words.
func TestAlignedPod(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU cannot be divided")
	}
	h := harness.NewHost(t)
	c := &chaos{T: t, h: h, more: `cpuManagerPolicy: static
reservedSystemCPUs: "0"
cpuManagerPolicyOptions: {strict-cpu-reservation: "true"}
topologyManagerPolicy: single-numa-node
topologyManagerScope: pod
memoryManagerPolicy: Static
kubeReserved: {memory: 300Mi}
reservedMemory: [{numaNode: 0, limits: {memory: 400Mi}}]
`}
	c.node()
	defer c.kubelet(func(int) time.Duration { return time.Hour })()
	c.ready()
	manifest(t, h, fmt.Sprintf(cpuPod, "aligned", `cpu: "1", memory: 32Mi`))
	h.Kubectl("wait", "--for=condition=Ready", "pod/aligned", "--timeout=60s")
	out := h.Kubectl("exec", "aligned", "--", "grep", "Cpus_allowed_list", "/proc/1/status")
	if own := strings.TrimSpace(strings.TrimPrefix(out, "Cpus_allowed_list:")); own == "0" || strings.ContainsAny(own, "-,") {
		t.Errorf("its own CPU is %q", own)
	}
	uid := strings.TrimSpace(h.Kubectl("get", "pod", "aligned", "-o", "jsonpath={.metadata.uid}"))
	raw, err := os.ReadFile(h.Path("/var/lib/skiff/kubelet/pods/" + uid + "/memory"))
	if err != nil || !strings.Contains(string(raw), "33554432") {
		t.Errorf("what is noted of its memory: %s %v", raw, err)
	}
	manifest(t, h, strings.Replace(fmt.Sprintf(cpuPod, "scattered", `cpu: "1", memory: 900Gi`), "spec:", "spec:\n  nodeName: "+nodeName(h), 1))
	want := "Failed TopologyAffinityError Pod was rejected: Resources cannot be allocated with Topology locality"
	harness.Eventually(t, time.Minute, "what no NUMA node has is refused", func() (bool, string) {
		got := strings.TrimSpace(h.Kubectl("get", "pod", "scattered", "-o", "jsonpath={.status.phase} {.status.reason} {.status.message}"))
		return got == want, got
	})
}

// node starts everything but the kubelet.
func (c *chaos) node() {
	h := c.h
	conf := map[string]string{
		"/etc/skiff/cri.toml":   fmt.Sprintf("cgroup = %q\nkeeper = %q\n", h.CgroupRoot+"/skiff", filepath.Join(h.BinDir, "skiff-keeper")),
		"/etc/skiff/chaos.yaml": fmt.Sprintf(chaosKubelet, h.CgroupRoot) + c.more,
	}
	for path, text := range conf {
		file := h.Path(path)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			c.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			c.Fatal(err)
		}
	}
	c.daemon("cri", "skiff-cri")
	harness.Eventually(c, time.Minute, "the CRI server answers", func() (bool, string) {
		_, err := os.Stat(h.Path("/run/skiff/images.sock"))
		return err == nil, fmt.Sprint(err)
	})
	archives, err := filepath.Glob(filepath.Join(h.BinDir, "images", "*.tar"))
	if err != nil || len(archives) == 0 {
		c.Fatalf("no image archives: %v", err)
	}
	for _, a := range archives {
		h.MustSkiff("images", "import", "--socket", "/run/skiff/images.sock", a)
	}
	c.daemon("server", "skiff", "server", "--disable-agent", "--cgroup-root", h.CgroupRoot, "--node-name", h.Name, "--node-ip", h.IP)
	harness.Eventually(c, 2*time.Minute, "the API server is ready", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "--raw", "/readyz")
		return err == nil && strings.TrimSpace(out) == "ok", out
	})
}

// daemon starts a program that the end of the test ends.
func (c *chaos) daemon(name, program string, args ...string) *exec.Cmd {
	c.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := c.h.Command(ctx, filepath.Join(c.h.BinDir, program), args...)
	log, err := os.OpenFile(filepath.Join(c.h.Dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		c.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() {
		if c.Failed() && name != "kubelet" {
			c.tail(name)
		}
		cancel()
		cmd.Wait()
	})
	return cmd
}

func (c *chaos) tail(name string) {
	raw, _ := os.ReadFile(filepath.Join(c.h.Dir, name+".log"))
	c.Logf("--- end of the log of %s\n%s", name, raw[max(0, len(raw)-6000):])
}

// kubelet keeps a kubelet running: it is killed after what life says for the nth of them, and started again at once. The
// returned function ends that, by a kill too.
func (c *chaos) kubelet(life func(n int) time.Duration) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for n := 0; ; n++ {
			cmd := c.daemon("kubelet", "skiff", "kubelet", "--config=/etc/skiff/chaos.yaml", "--kubeconfig=/var/lib/skiff/pki/kubelet.kubeconfig",
				"--root-dir=/var/lib/skiff/kubelet", "--hostname-override="+c.h.Name, "--node-ip="+c.h.IP)
			over := false
			select {
			case <-time.After(life(n)):
			case <-quit:
				over = true
			}
			cmd.Process.Kill()
			cmd.Wait()
			if over {
				return
			}
		}
	}()
	once := false
	return func() {
		if !once {
			once = true
			close(quit)
			<-ended
			if c.Failed() {
				c.tail("kubelet")
			}
		}
	}
}

// churn lets pods come and go, ten at a time, until done.
func (c *chaos) churn(done chan struct{}) {
	scripts := []string{"exec sleep 1000", "exit 0", "sleep 1; exit 1", "trap 'sleep 3; exit 0' TERM; while true; do sleep 0.1; done"}
	for {
		text := ""
		for range 10 {
			text += fmt.Sprintf(passingPod, c.passing, scripts[c.passing%len(scripts)])
			c.passing++
		}
		manifest(c.T, c.h, text)
		select {
		case <-done:
			return
		case <-time.After(time.Duration(rand.IntN(6000)) * time.Millisecond):
		}
		c.h.Kubectl("delete", "pod", "-l", "app=passing", "--wait=false")
		harness.Eventually(c, 3*time.Minute, "passing pods make room", func() (bool, string) {
			out := c.h.Kubectl("get", "pods", "-l", "app=passing", "-o", "name")
			return strings.Count(out, "\n") <= 10, out
		})
	}
}

// steady tells of each pod that stays what must not change: its containers, and since when it is ready.
func (c *chaos) steady() string {
	return c.h.Kubectl("get", "pods", "-l", "app=steady", "--sort-by=.metadata.name", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.phase} `+
		`{.status.initContainerStatuses[*].restartCount} {.status.containerStatuses[*].restartCount} {.status.containerStatuses[*].containerID} `+
		`{.status.initContainerStatuses[1].containerID} {.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastTransitionTime}{"\n"}{end}`)
}

// inventory compares what is on the host with the pods there should be: directories, mounts, cgroups and processes.
func (c *chaos) inventory(pods int) {
	c.Helper()
	uids := strings.Fields(c.h.Kubectl("get", "pods", "-o", "jsonpath={.items[*].metadata.uid}"))
	slices.Sort(uids)
	if len(uids) != pods {
		c.Errorf("%d pods, want %d", len(uids), pods)
	}
	want := fmt.Sprint(uids)
	harness.Eventually(c, time.Minute, "exactly the pods' directories, cgroups and containers are there", func() (bool, string) {
		dirs, groups := c.podDirs(), c.podCgroups()
		running := len(strings.Fields(c.h.MustRun("sh", "-c", "ls /run/skiff/ns 2>/dev/null | wc -l")))
		return fmt.Sprint(dirs) == want && fmt.Sprint(groups) == want && running >= 0, fmt.Sprintf("directories %v, cgroups %v, pods %v", dirs, groups, uids)
	})
	for line := range strings.Lines(c.h.MustRun("cat", "/proc/self/mounts")) {
		point := strings.Fields(line)[1]
		if uid, ok := strings.CutPrefix(point, "/var/lib/skiff/kubelet/pods/"); ok {
			if uid, _, _ = strings.Cut(uid, "/"); !slices.Contains(uids, uid) {
				c.Errorf("mount of a pod that is gone: %s", point)
			}
		}
	}
	expected := 2 * pods // server and sidecar
	harness.Eventually(c, time.Minute, "exactly the pods' processes are there", func() (bool, string) {
		out, _ := c.h.Run("sh", "-c", "cat $(find /sys/fs/cgroup"+"/*"+c.h.CgroupRoot+"/kubepods -name cgroup.procs -path '*pids*' 2>/dev/null) 2>/dev/null | wc -l")
		return strings.TrimSpace(out) == fmt.Sprint(expected), out
	})
}

func (c *chaos) podDirs() []string {
	var out []string
	entries, err := os.ReadDir(c.h.Path("/var/lib/skiff/kubelet/pods"))
	if err != nil {
		c.Fatal(err)
	}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	slices.Sort(out)
	return out
}

// podCgroups lists the pods that have a group in any hierarchy.
func (c *chaos) podCgroups() []string {
	found := map[string]bool{}
	roots, _ := filepath.Glob("/sys/fs/cgroup/*" + c.h.CgroupRoot + "/kubepods")
	for _, root := range roots {
		filepath.WalkDir(root, func(_ string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				if uid, ok := strings.CutPrefix(d.Name(), "pod"); ok {
					found[uid] = true
				}
			}
			return nil
		})
	}
	out := []string{}
	for uid := range found {
		out = append(out, uid)
	}
	slices.Sort(out)
	return out
}
