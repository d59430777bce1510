//go:build e2e

// Package conformance holds a test of our own for each behaviour that Kubernetes marks [NodeConformance], under its
// name there (test/conformance/testdata/conformance.yaml of Kubernetes 1.37). docs/conformance.md lists them.
//
// All of them run side by side on one node, each in a namespace of its own, through client-go.
package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"

	"github.com/skiff-node/skiff/test/harness"
)

// The images of the pods. A container without an image runs the shell on its first argument.
const (
	busyboxImage = "localhost/skiff/busybox:v1"
	probeImage   = "localhost/skiff/probe:v1"
)

// patience is how long anything may take on a busy machine.
const patience = 3 * time.Minute

// node is the host and the way to its API server.
type node struct {
	h      *harness.Host
	config *rest.Config
	client *kubernetes.Clientset
}

func newNode(t *testing.T) *node {
	h := harness.NewHost(t)
	h.Up()
	raw, err := os.ReadFile(h.Path("/etc/skiff/admin.kubeconfig"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	config.QPS, config.Burst = -1, -1
	n := &node{h: h, config: config}
	dialing := rest.CopyConfig(config)
	dialing.Dial = n.dial
	if n.client, err = kubernetes.NewForConfig(dialing); err != nil {
		t.Fatal(err)
	}
	return n
}

// dial opens a connection from inside the host.
func (n *node) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = n.h.InNetwork(func() error {
		conn, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// world is what one behaviour sees: the node, and a namespace of its own.
type world struct {
	*testing.T
	*node
	ns string
}

// behaviour is one row of the table: its name in upstream's list, and the test.
type behaviour struct {
	name string
	test func(*world)
}

// newWorld makes the namespace. Its end deletes it, and waits for nothing.
func newWorld(t *testing.T, n *node, ns string) *world {
	w := &world{T: t, node: n, ns: ns}
	ctx := context.Background()
	if _, err := n.client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			w.describe()
		}
		_ = n.client.CoreV1().Namespaces().Delete(ctx, ns, metav1.DeleteOptions{})
	})
	w.until("the namespace has its service account", func() (bool, string) {
		_, err := n.client.CoreV1().ServiceAccounts(ns).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, fmt.Sprint(err)
	})
	return w
}

// describe shows the pods and events of the namespace after a failure.
func (w *world) describe() {
	ctx := context.Background()
	pods, _ := w.client.CoreV1().Pods(w.ns).List(ctx, metav1.ListOptions{})
	for _, p := range pods.Items {
		w.Logf("pod %s: %s", p.Name, p.Status.String())
	}
	events, _ := w.client.CoreV1().Events(w.ns).List(ctx, metav1.ListOptions{})
	for _, e := range events.Items {
		w.Logf("event %s %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
	}
}

func (w *world) until(what string, ask func() (bool, string)) {
	w.Helper()
	harness.Eventually(w, patience, what, ask)
}

// must fails the test on an error.
func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// read decodes one object of YAML.
func read[T any](w *world, text string) *T {
	w.Helper()
	obj, _, err := scheme.Codecs.UniversalDeserializer().Decode([]byte(text), nil, nil)
	if err != nil {
		w.Fatalf("%v in:\n%s", err, text)
	}
	out, ok := any(obj).(*T)
	if !ok {
		w.Fatalf("%T in:\n%s", obj, text)
	}
	return out
}

// configMap and secret make an object from lines of key and value.
func (w *world) configMap(name string, data map[string]string) *corev1.ConfigMap {
	w.Helper()
	cm, err := w.client.CoreV1().ConfigMaps(w.ns).Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
	w.must(err)
	return cm
}

func (w *world) secret(name string, data map[string]string) *corev1.Secret {
	w.Helper()
	s, err := w.client.CoreV1().Secrets(w.ns).Create(context.Background(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}, metav1.CreateOptions{})
	w.must(err)
	return s
}

// spec reads a pod by the body of its spec. What is left out is what most tests want: no restart, a short grace, and
// the shell on the first argument of a container without an image.
func (w *world) spec(body string) *corev1.Pod {
	w.Helper()
	p := read[corev1.Pod](w, "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n"+indent(body))
	if p.Spec.RestartPolicy == "" {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
	}
	if p.Spec.TerminationGracePeriodSeconds == nil {
		p.Spec.TerminationGracePeriodSeconds = new(int64(2))
	}
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			complete(&list[i], i)
		}
	}
	return p
}

func complete(c *corev1.Container, i int) {
	if c.Name == "" {
		c.Name = fmt.Sprintf("c%d", i)
	}
	c.ImagePullPolicy = corev1.PullNever
	if c.Image != "" {
		return
	}
	c.Image = busyboxImage
	if len(c.Command) == 0 && len(c.Args) == 1 {
		c.Command = []string{"sh", "-c"}
	}
}

func indent(s string) string {
	var out strings.Builder
	for line := range strings.Lines(strings.TrimRight(s, "\n") + "\n") {
		out.WriteString("  " + line)
	}
	return out.String()
}

// create makes the pod.
func (w *world) create(p *corev1.Pod) *corev1.Pod {
	w.Helper()
	out, err := w.client.CoreV1().Pods(w.ns).Create(context.Background(), p, metav1.CreateOptions{})
	w.must(err)
	return out
}

// wait waits until the pod is as asked.
func (w *world) wait(name, what string, ask func(*corev1.Pod) bool) *corev1.Pod {
	w.Helper()
	var pod *corev1.Pod
	w.until("pod "+name+" "+what, func() (bool, string) {
		p, err := w.client.CoreV1().Pods(w.ns).Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			return false, err.Error()
		}
		pod = p
		return ask(p), p.Status.String()
	})
	return pod
}

// run makes the pod and waits until its containers have ended.
func (w *world) run(p *corev1.Pod) *corev1.Pod {
	w.Helper()
	w.create(p)
	return w.wait(p.Name, "ends", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

// start makes the pod and waits until it is Ready.
func (w *world) start(p *corev1.Pod) *corev1.Pod {
	w.Helper()
	w.create(p)
	return w.wait(p.Name, "is Ready", ready)
}

func ready(p *corev1.Pod) bool { return condition(p, corev1.PodReady) == corev1.ConditionTrue }

func condition(p *corev1.Pod, t corev1.PodConditionType) corev1.ConditionStatus {
	for _, c := range p.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

// prints runs the pod to a good end, and asks that its log has each line.
func (w *world) prints(p *corev1.Pod, lines ...string) {
	w.Helper()
	p = w.run(p)
	out := w.logs(p.Name, p.Spec.Containers[0].Name)
	if p.Status.Phase != corev1.PodSucceeded {
		w.Errorf("the pod ends %s: %s", p.Status.Phase, out)
	}
	for _, want := range lines {
		if !strings.Contains("\n"+out+"\n", "\n"+want+"\n") {
			w.Errorf("the log has no line %q:\n%s", want, out)
		}
	}
}

// logs reads a container's log.
func (w *world) logs(pod, container string) string {
	w.Helper()
	stream, err := w.client.CoreV1().Pods(w.ns).GetLogs(pod, &corev1.PodLogOptions{Container: container}).Stream(context.Background())
	w.must(err)
	defer stream.Close()
	out, err := io.ReadAll(stream)
	w.must(err)
	return strings.TrimSpace(string(out))
}

// exec runs a shell command in the pod's first container.
func (w *world) exec(p *corev1.Pod, script string) string {
	w.Helper()
	out, err := w.tryExec(p, "sh", "-c", script)
	if err != nil {
		w.Fatalf("exec %q: %v: %s", script, err, out)
	}
	return out
}

func (w *world) tryExec(p *corev1.Pod, argv ...string) (string, error) {
	req := w.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(w.ns).Name(p.Name).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: p.Spec.Containers[0].Name, Command: argv, Stdout: true, Stderr: true}, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(w.config, http.MethodGet, req.URL().String())
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	// The executor takes no dialer, and dials on the thread that calls it.
	err = w.h.InNetwork(func() error {
		return executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
	})
	return strings.TrimSpace(out.String() + errs.String()), err
}

// shows waits until a command in the pod prints something.
func (w *world) shows(p *corev1.Pod, script, want string) {
	w.Helper()
	w.until(fmt.Sprintf("%s shows %q", script, want), func() (bool, string) {
		out, err := w.tryExec(p, "sh", "-c", script)
		return out == want, fmt.Sprint(out, " ", err)
	})
}

// gone deletes the pod and waits until it is gone.
func (w *world) gone(name string, grace int64) {
	w.Helper()
	pods := w.client.CoreV1().Pods(w.ns)
	w.must(pods.Delete(context.Background(), name, metav1.DeleteOptions{GracePeriodSeconds: &grace}))
	w.until("pod "+name+" is gone", func() (bool, string) {
		p, err := pods.Get(context.Background(), name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return true, ""
		}
		return false, fmt.Sprint(p, err)
	})
}

// patch changes the pod.
func (w *world) patch(name, patch string, subresources ...string) {
	w.Helper()
	_, err := w.client.CoreV1().Pods(w.ns).Patch(context.Background(), name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, subresources...)
	w.must(err)
}

// event waits for an event of the pod whose reason and message have these texts.
func (w *world) event(name, reason, message string) {
	w.Helper()
	w.until("event "+reason, func() (bool, string) {
		list, err := w.client.CoreV1().Events(w.ns).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			return false, err.Error()
		}
		var all []string
		for _, e := range list.Items {
			if e.InvolvedObject.Name == name && e.Reason == reason && strings.Contains(e.Message, message) {
				return true, ""
			}
			all = append(all, e.Reason+": "+e.Message)
		}
		return false, strings.Join(all, "; ")
	})
}

// runtimeClass makes a runtime class for the default handler under a name of the behaviour's own.
func (w *world) runtimeClass(overhead corev1.ResourceList) string {
	w.Helper()
	rc := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: w.ns}, Handler: "runc"}
	if overhead != nil {
		rc.Overhead = &nodev1.Overhead{PodFixed: overhead}
	}
	_, err := w.client.NodeV1().RuntimeClasses().Create(context.Background(), rc, metav1.CreateOptions{})
	w.must(err)
	w.Cleanup(func() {
		_ = w.client.NodeV1().RuntimeClasses().Delete(context.Background(), w.ns, metav1.DeleteOptions{})
	})
	return w.ns
}

// restarts is how often the pod's first container was restarted.
func restarts(p *corev1.Pod) int32 {
	if len(p.Status.ContainerStatuses) == 0 {
		return 0
	}
	return p.Status.ContainerStatuses[0].RestartCount
}

// ended is how the pod's first container ended.
func (w *world) ended(p *corev1.Pod) *corev1.ContainerStateTerminated {
	w.Helper()
	if len(p.Status.ContainerStatuses) == 0 || p.Status.ContainerStatuses[0].State.Terminated == nil {
		w.Fatal(errors.New("no terminated container"), p.Status.String())
	}
	return p.Status.ContainerStatuses[0].State.Terminated
}
