package harness

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// inCgroup executes a program in a cgroup of the host's, in each hierarchy.
const inCgroup = `for d in /sys/fs/cgroup/*/ /sys/fs/cgroup/; do
  [ -e "$d/cgroup.procs" ] || continue
  mkdir -p "$d$0"
  for f in cpuset.cpus cpuset.mems; do
    p=$(dirname "$d$0"); [ ! -e "$p/$f" ] || { cat "$d/$f" >"$p/$f"; cat "$p/$f" >"$d$0/$f"; }
  done
  echo $$ >"$d$0/cgroup.procs"
done 2>/dev/null
exec "$@"`

// CommandIn is a command inside the host that runs in a cgroup below the host's own.
func CommandIn(ctx context.Context, h *Host, cgroup string, argv ...string) *exec.Cmd {
	return h.Command(ctx, "sh", append([]string{"-c", inCgroup, h.CgroupRoot + "/" + cgroup}, argv...)...)
}

// Daemon starts a program on the host, in a cgroup of the host's of that name. Its output is in the returned file, whose
// end is shown when the test fails. The end of the host ends it.
func Daemon(h *Host, name string, argv ...string) (log string) {
	h.t.Helper()
	cmd := CommandIn(context.Background(), h, name, argv...)
	log = filepath.Join(h.Dir, name+".log")
	out, err := os.Create(log)
	if err != nil {
		h.t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = out, out, &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		h.t.Fatalf("start %s: %v", name, err)
	}
	h.t.Cleanup(func() {
		if h.t.Failed() {
			raw, _ := os.ReadFile(log)
			h.t.Logf("--- end of the log of %s\n%s", name, raw[max(0, len(raw)-8000):])
		}
	})
	go cmd.Wait()
	return log
}

// Await waits for a file of the host, a socket usually.
func Await(h *Host, path string) {
	h.t.Helper()
	Eventually(h.t, time.Minute, path+" exists", func() (bool, string) {
		_, err := os.Stat(h.Path(path))
		return err == nil, fmt.Sprint(err)
	})
}

// SkiffCRI starts skiff-cri on the host, imports image archives, and returns the CRI socket.
func SkiffCRI(h *Host, archives ...string) string {
	h.t.Helper()
	return SkiffCRIWith(h, "", archives...)
}

// SkiffCRIWith is SkiffCRI with these lines at the end of the server's configuration.
func SkiffCRIWith(h *Host, lines string, archives ...string) string {
	h.t.Helper()
	config := fmt.Sprintf("cgroup = %q\nkeeper = %q\n", h.CgroupRoot+"/skiff", filepath.Join(h.BinDir, "skiff-keeper")) + lines
	if err := Write(h, "/etc/skiff/cri.toml", config); err != nil {
		h.t.Fatal(err)
	}
	Daemon(h, "skiff-cri", filepath.Join(h.BinDir, "skiff-cri"))
	Await(h, "/run/skiff/images.sock")
	for _, a := range archives {
		h.MustSkiff("images", "import", "--socket", "/run/skiff/images.sock", a)
	}
	return "/run/skiff/cri.sock"
}

// SkiffPlane starts skiff's control plane on the host, alone, and waits until the API server is ready.
func SkiffPlane(h *Host) {
	h.t.Helper()
	Daemon(h, "server", filepath.Join(h.BinDir, "skiff"), "server", "--disable-agent", "--cgroup-root", h.CgroupRoot, "--node-name", h.Name, "--node-ip", h.IP)
	Serving(h)
}

// Serving waits until the host's API server is ready.
func Serving(h *Host) {
	h.t.Helper()
	Eventually(h.t, 2*time.Minute, "the API server is ready", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "--raw", "/readyz")
		return err == nil && strings.TrimSpace(out) == "ok", out
	})
}

// Dial connects from the host's network.
func Dial(h *Host) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = h.InNetwork(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// Write makes a file on the host, with the directories above it.
func Write(h *Host, path, text string) error {
	file := h.Path(path)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(text), 0o644)
}

// KubeletConfig is the configuration of a kubelet under the host's control plane, skiff's or upstream's: an upstream file, which
// names no path of skiff's but the certificates. Static pods are read from StaticPods. How full the machine's disk is shall not
// matter to a host: nothing is evicted and no image removed for it.
func KubeletConfig(h *Host, socket string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix://%s
cgroupRoot: %s
staticPodPath: %s
clusterDNS: [10.43.0.10]
clusterDomain: cluster.local
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
authentication: {x509: {clientCAFile: /var/lib/skiff/pki/ca.crt}, webhook: {enabled: true}, anonymous: {enabled: false}}
authorization: {mode: Webhook}
tlsCertFile: /var/lib/skiff/pki/kubelet-serving.crt
tlsPrivateKeyFile: /var/lib/skiff/pki/kubelet-serving.key
`, socket, h.CgroupRoot, StaticPods)
}

// StaticPods is where a kubelet with KubeletConfig looks for static pods.
const StaticPods = "/etc/kubernetes/manifests"

// Kubelet starts a kubelet that joins the host's control plane. argv is its program: `skiff kubelet`, or upstream's.
func Kubelet(h *Host, socket string, argv ...string) {
	h.t.Helper()
	for file, text := range map[string]string{"/etc/kubernetes/kubelet.yaml": KubeletConfig(h, socket), StaticPods + "/.keep": ""} {
		if err := Write(h, file, text); err != nil {
			h.t.Fatal(err)
		}
	}
	Daemon(h, "kubelet", append(argv, "--config=/etc/kubernetes/kubelet.yaml", "--kubeconfig=/var/lib/skiff/pki/kubelet.kubeconfig",
		"--hostname-override="+h.Name, "--node-ip="+h.IP)...)
}

// KubeletWith starts skiff's kubelet as Kubelet does, with these lines of KubeletConfiguration in a drop-in.
func KubeletWith(h *Host, socket, lines string) {
	h.t.Helper()
	const dropIns = "/etc/kubernetes/kubelet.d"
	if err := Write(h, dropIns+"/test.conf", "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"+lines); err != nil {
		h.t.Fatal(err)
	}
	Kubelet(h, socket, filepath.Join(h.BinDir, "skiff-kubelet"), "--config-dir="+dropIns)
}

// ContainerdConfig is the configuration of Debian's containerd: what a kubelet's node needs and no more; everything else is
// containerd's default. pause is the image of its sandboxes.
func ContainerdConfig(pause string) string {
	return fmt.Sprintf(`version = 2
root = "/var/lib/skiff/containerd"
state = "/run/containerd"
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = %q
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/etc/cni/net.d"
`, pause)
}

// Conflist is the network of containerd's pods: Debian's bridge, host-local and portmap plugins.
const Conflist = `{"cniVersion": "1.0.0", "name": "pods", "plugins": [
{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "promiscMode": true,
 "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
{"type": "portmap", "capabilities": {"portMappings": true}}]}
`
