package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-node/skiff/test/bench/report"
	"github.com/skiff-node/skiff/test/bench/usage"
	"github.com/skiff-node/skiff/test/harness"
	"github.com/skiff-node/skiff/test/images"
)

const (
	nodeRounds = 3
	nodeLimit  = 60 * time.Second
	replicas   = 30
	adminFile  = "/etc/skiff/admin.kubeconfig"

	rowAPI   = "API server ready"
	rowNode  = "node Ready"
	rowPod   = "first pod Running"
	rowUp    = "skiff up returns"
	rowScale = "Deployment 1 → 30, all Ready"
)

// nodes measures a whole node, from nothing, several times on one host.
func nodes(b *bench) error {
	h := newHost(b)
	taken := timings{}
	for i := range nodeRounds {
		b.say("node from nothing: %d of %d", i+1, nodeRounds)
		n := &node{bench: b, host: h, taken: taken}
		if err := n.round(i == 0); err != nil {
			return err
		}
	}
	goals := map[string]string{rowNode: "≤ 800 ms", rowPod: "≤ 1000 ms"}
	var rows []report.Row
	for _, name := range []string{rowAPI, rowNode, rowPod, rowUp} {
		rows = append(rows, report.Row{Name: name, Skiff: report.Stats(taken[name]), Goal: goals[name]})
	}
	b.report.Add(fmt.Sprintf("From nothing, %d runs", nodeRounds), "ms", rows...)
	b.report.Add("Deployment", "ms", report.Row{Name: rowScale, Skiff: report.Stats(taken[rowScale]), Goal: "≤ 1500 ms"})
	return nil
}

// node is one life of a node.
type node struct {
	bench  *bench
	host   *harness.Host
	mu     sync.Mutex
	taken  timings
	began  time.Time
	client kubernetes.Interface
}

// reached notes the time since the node's start.
func (n *node) reached(what string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.taken[what] = append(n.taken[what], report.Millis(time.Since(n.began)))
}

// round starts a node, waits for its first pod, and takes it away. The first round measures memory and the Deployment.
func (n *node) round(first bool) error {
	ctx, cancel := context.WithTimeout(n.bench.ctx, nodeLimit)
	defer cancel()
	up := make(chan error, 1)
	ended := 0.0
	n.began = time.Now()
	go func() {
		_, err := n.host.Skiff("up", "--cgroup-root", n.host.CgroupRoot)
		ended = report.Millis(time.Since(n.began))
		if err != nil {
			cancel()
		}
		up <- err
	}()
	err := n.start(ctx)
	if uerr := <-up; uerr != nil {
		return uerr
	}
	n.taken[rowUp] = append(n.taken[rowUp], ended)
	if err == nil && first {
		err = n.steady()
	}
	if err != nil {
		return err
	}
	_, err = n.host.Skiff("down", "--purge")
	return err
}

// start follows the node until its first pod runs. The pod is created as soon as the API server takes it.
func (n *node) start(ctx context.Context) error {
	if err := wait(ctx, n.connect); err != nil {
		return fmt.Errorf("the API server is not ready: %w", err)
	}
	n.reached(rowAPI)
	var g errgroup.Group
	g.Go(func() error {
		if err := n.nodeReady(ctx); err != nil {
			return fmt.Errorf("the node is not Ready: %w", err)
		}
		n.reached(rowNode)
		return nil
	})
	g.Go(func() error {
		if err := n.firstPod(ctx); err != nil {
			return fmt.Errorf("the first pod does not run: %w", err)
		}
		n.reached(rowPod)
		return nil
	})
	return g.Wait()
}

func (n *node) firstPod(ctx context.Context) error {
	if err := wait(ctx, func() error { return n.createPod(ctx) }); err != nil {
		return err
	}
	return n.follow(ctx, func(ctx context.Context) (watch.Interface, error) {
		return n.client.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=first"})
	}, func(e watch.Event) bool {
		p, ok := e.Object.(*corev1.Pod)
		return ok && p.Status.Phase == corev1.PodRunning
	})
}

// connect asks the API server whether it is ready.
func (n *node) connect() (err error) {
	n.client, err = connect(n.bench.ctx, n.host)
	return err
}

// connect makes a client of the host's API server, if that is ready.
func connect(ctx context.Context, h *harness.Host) (kubernetes.Interface, error) {
	config, err := adminConfig(h)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err = client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	return client, err
}

// adminConfig is how the host's administrator reaches the API server.
func adminConfig(h *harness.Host) (*rest.Config, error) {
	raw, err := os.ReadFile(h.Path(adminFile))
	if err != nil {
		return nil, err
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		return nil, err
	}
	config.Dial, config.QPS = harness.Dial(h), -1
	return config, nil
}

func (n *node) nodeReady(ctx context.Context) error {
	return n.follow(ctx, func(ctx context.Context) (watch.Interface, error) {
		return n.client.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{})
	}, func(e watch.Event) bool {
		node, ok := e.Object.(*corev1.Node)
		return ok && ready(node)
	})
}

func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// follow watches until an event is the wanted one, and watches anew when the server ends a watch.
func (n *node) follow(ctx context.Context, open func(context.Context) (watch.Interface, error), wanted func(watch.Event) bool) error {
	for {
		w, err := open(ctx)
		if err != nil {
			return err
		}
		for e := range w.ResultChan() {
			if wanted(e) {
				w.Stop()
				return nil
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func container() corev1.Container {
	return corev1.Container{Name: "hello", Image: images.Hello, ImagePullPolicy: corev1.PullIfNotPresent}
}

// createPod creates the first pod; it is refused until its service account is there.
func (n *node) createPod(ctx context.Context) error {
	_, err := n.client.CoreV1().Pods("default").Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "first"}, Spec: corev1.PodSpec{Containers: []corev1.Container{container()}},
	}, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// steady measures what a node with one pod takes, and a Deployment that grows.
func (n *node) steady() error {
	n.bench.say("idle memory of the node")
	if err := sleep(n.bench.ctx, 8*time.Second); err != nil {
		return err
	}
	n.memory()
	n.bench.say("Deployment 1 → %d", replicas)
	ctx, cancel := context.WithTimeout(n.bench.ctx, 2*time.Minute)
	defer cancel()
	apps := n.client.AppsV1().Deployments("default")
	labels, count := map[string]string{"app": "scaled"}, int32(1)
	_, err := apps.Create(ctx, &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "scaled"},
		Spec: appsv1.DeploymentSpec{Replicas: &count, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: corev1.PodTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{container()}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		return err
	}
	if err := n.replicasReady(ctx, 1); err != nil {
		return fmt.Errorf("the Deployment's first replica: %w", err)
	}
	began := time.Now()
	patch := fmt.Appendf(nil, `{"spec": {"replicas": %d}}`, replicas)
	if _, err := apps.Patch(ctx, "scaled", types.MergePatchType, patch, metav1.PatchOptions{}, "scale"); err != nil {
		return err
	}
	if err := n.replicasReady(ctx, replicas); err != nil {
		return fmt.Errorf("%d replicas: %w", replicas, err)
	}
	n.taken[rowScale] = append(n.taken[rowScale], report.Millis(time.Since(began)))
	return nil
}

func (n *node) replicasReady(ctx context.Context, want int32) error {
	return n.follow(ctx, func(ctx context.Context) (watch.Interface, error) {
		return n.client.AppsV1().Deployments("default").Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=scaled"})
	}, func(e watch.Event) bool {
		d, ok := e.Object.(*appsv1.Deployment)
		return ok && d.Status.ReadyReplicas == want
	})
}

// memory reports each of the node's processes.
func (n *node) memory() {
	var rows []report.Row
	rss, private := 0.0, 0.0
	all := usage.Of(n.host)
	for _, name := range []string{"skiff", "skiff-cri", "skiff-keeper"} {
		m := all[name]
		rows = append(rows, report.Row{Name: name + ", RSS", Skiff: report.One(m.RSS / report.MiB)}, report.Row{Name: name + ", private", Skiff: report.One(m.Private / report.MiB)})
		rss, private = rss+m.RSS, private+m.Private
	}
	rows = append(rows, report.Row{Name: "whole node, RSS", Skiff: report.One(rss / report.MiB), Goal: "≤ 220 MB"}, report.Row{Name: "whole node, private", Skiff: report.One(private / report.MiB)})
	n.bench.report.Add("Memory of the node, idle with one pod", "MiB", rows...)
}
