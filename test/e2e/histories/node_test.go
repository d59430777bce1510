//go:build e2e

package histories

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/test/harness"
	"github.com/skiff-node/skiff/test/images"
)

// The images of containers: the one they begin with, and one that they may be changed to.
const (
	probeImage = images.Probe
	otherImage = "localhost/skiff/other:v1"
)

// patience is how long anything may take on a busy machine.
const patience = 90 * time.Second

const staticDir = "/etc/skiff/static"

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/skiff/relay.sock
cgroupRoot: %s
staticPodPath: ` + staticDir + `
fileCheckFrequency: 1s
eventRecordQPS: 0
evictionHard: {memory.available: 1Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%, imagefs.available: 1%%}
authentication: {x509: {clientCAFile: /var/lib/skiff/pki/ca.crt}}
tlsCertFile: /var/lib/skiff/pki/kubelet-serving.crt
tlsPrivateKeyFile: /var/lib/skiff/pki/kubelet-serving.key
`

// node is a simulated host with everything of a node but that the kubelet reaches the runtime through a relay.
type node struct {
	*testing.T
	h       *harness.Host
	client  *kubernetes.Clientset
	runtime cri.RuntimeServiceClient
	relay   *relay

	mu        sync.Mutex
	kubelet   *exec.Cmd
	histories map[string]*history // by namespace
}

func newNode(t *testing.T) *node {
	n := &node{T: t, h: harness.NewHost(t), histories: map[string]*history{}}
	n.write("/etc/skiff/cri.toml", fmt.Sprintf("cgroup = %q\nkeeper = %q\n", n.h.CgroupRoot+"/skiff", filepath.Join(n.h.BinDir, "skiff-keeper")))
	n.write("/etc/skiff/kubelet.yaml", fmt.Sprintf(kubeletConfig, n.h.CgroupRoot))
	n.write(staticDir+"/.keep", "")
	harness.Daemon(n.h, "cri", filepath.Join(n.h.BinDir, "skiff-cri"))
	harness.Daemon(n.h, "server", filepath.Join(n.h.BinDir, "skiff"), "server", "--disable-agent", "--cgroup-root", n.h.CgroupRoot, "--node-name", n.h.Name, "--node-ip", n.h.IP)
	harness.Await(n.h, "/run/skiff/images.sock")
	n.importImages()
	conn := n.dial("/run/skiff/cri.sock")
	n.runtime = cri.NewRuntimeServiceClient(conn)
	n.relay = newRelay(n, n.h.Path("/run/skiff/relay.sock"), n.h.Path("/run/skiff/cri.sock"))
	n.connect()
	n.startKubelet()
	harness.Eventually(t, patience, "the node is Ready", func() (bool, string) {
		out, err := n.h.Skiff("kubectl", "get", "node", n.h.Name, "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
		return err == nil && out == "True", fmt.Sprint(out, err)
	})
	n.watch()
	return n
}

func (n *node) write(path, text string) {
	n.Helper()
	if err := harness.Write(n.h, path, text); err != nil {
		n.Fatal(err)
	}
}

// importImages gives the runtime the probe under both names.
func (n *node) importImages() {
	n.Helper()
	program, err := images.Binary(filepath.Join(n.h.BinDir, "images", "probe"))
	if err != nil {
		n.Fatal(err)
	}
	files := map[string]images.File{"/probe": program}
	archive := filepath.Join(n.h.Dir, "images.tar")
	err = images.BuildArchive(archive, map[string]images.Spec{
		probeImage: {Files: files, Entrypoint: []string{"/probe"}},
		otherImage: {Files: files, Entrypoint: []string{"/probe"}, Labels: map[string]string{"other": "true"}},
	})
	if err != nil {
		n.Fatal(err)
	}
	n.h.MustSkiff("images", "import", "--socket", "/run/skiff/images.sock", archive)
}

// dial connects to a CRI socket of the host.
func (n *node) dial(socket string) *grpc.ClientConn {
	n.Helper()
	conn, err := grpc.NewClient("unix://"+n.h.Path(socket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		n.Fatal(err)
	}
	n.Cleanup(func() { conn.Close() })
	return conn
}

// connect makes the client of the API server, which dials from inside the host.
func (n *node) connect() {
	n.Helper()
	harness.Await(n.h, "/etc/skiff/admin.kubeconfig")
	raw, err := os.ReadFile(n.h.Path("/etc/skiff/admin.kubeconfig"))
	if err != nil {
		n.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		n.Fatal(err)
	}
	config.QPS, config.Burst = -1, -1
	config.Dial = harness.Dial(n.h)
	if n.client, err = kubernetes.NewForConfig(config); err != nil {
		n.Fatal(err)
	}
	harness.Eventually(n, patience, "the API server is ready", func() (bool, string) {
		out, err := n.client.RESTClient().Get().AbsPath("/readyz").DoRaw(context.Background())
		return err == nil && strings.TrimSpace(string(out)) == "ok", fmt.Sprint(string(out), err)
	})
}

// startKubelet starts one that is no daemon of the host's: it will be killed.
func (n *node) startKubelet() {
	n.mu.Lock()
	defer n.mu.Unlock()
	log, err := os.OpenFile(filepath.Join(n.h.Dir, "kubelet.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.Fatal(err)
	}
	defer log.Close()
	n.kubelet = n.h.Command(context.Background(), filepath.Join(n.h.BinDir, "skiff-kubelet"), "--config=/etc/skiff/kubelet.yaml",
		"--kubeconfig=/var/lib/skiff/pki/kubelet.kubeconfig", "--root-dir=/var/lib/skiff/kubelet", "--hostname-override="+n.h.Name, "--node-ip="+n.h.IP)
	n.kubelet.Stdout, n.kubelet.Stderr, n.kubelet.SysProcAttr = log, log, &syscall.SysProcAttr{Setsid: true}
	if err := n.kubelet.Start(); err != nil {
		n.Fatalf("start the kubelet: %v", err)
	}
	go n.kubelet.Wait()
}

// killKubelet kills it, as it is, and waits until it is gone.
func (n *node) killKubelet() {
	n.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.kubelet.Process.Kill(); err != nil {
		n.Fatal(err)
	}
	pid := n.kubelet.Process.Pid
	harness.Eventually(n, patience, "the kubelet is gone", func() (bool, string) {
		err := syscall.Kill(pid, 0)
		return err == syscall.ESRCH, fmt.Sprint(err)
	})
}

// namespace makes a namespace in which pods can be made.
func (n *node) namespace(t *testing.T, name string) {
	t.Helper()
	ctx := context.Background()
	if _, err := n.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, patience, "the namespace has its service account", func() (bool, string) {
		_, err := n.client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, fmt.Sprint(err)
	})
}
