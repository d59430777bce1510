package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-node/skiff/test/bench/report"
	"github.com/skiff-node/skiff/test/harness"
)

// agent is a kubelet that is measured, with a control plane and a CRI server of its own, both skiff's.
type agent struct {
	name   string // "skiff" or "upstream"
	host   *harness.Host
	client kubernetes.Interface
	web    *http.Client // the kubelet's own API, as the administrator
	pods   *podList
}

// kubelets measures skiff's kubelet and, where it is on the PATH, upstream's.
func kubelets(b *bench) error {
	archive, err := writeImages(b)
	if err != nil {
		return err
	}
	sk := &agent{name: "skiff", host: newHost(b)}
	agents := []*agent{sk}
	if err := sk.start(b, archive, filepath.Join(sk.host.BinDir, "skiff"), "kubelet"); err != nil {
		return err
	}
	if upstream, err := exec.LookPath("kubelet"); err != nil {
		b.say("upstream's kubelet is not measured: %v", err)
	} else {
		up := &agent{name: "upstream", host: newHost(b)}
		agents = append(agents, up)
		b.report.Versions = append(b.report.Versions, "upstream's kubelet: "+version(upstream, "--version"))
		if err := up.start(b, archive, upstream); err != nil {
			return err
		}
	}
	for _, part := range []func(*bench, []*agent) error{lives, bursts, probing, resting} {
		if err := part(b, agents); err != nil {
			return err
		}
	}
	return nil
}

// start makes a host, its control plane and CRI server, and the kubelet, and waits until the node is Ready.
func (a *agent) start(b *bench, archive string, argv ...string) error {
	b.say("starting a control plane, skiff-cri and the kubelet of %s", a.name)
	socket := harness.SkiffCRI(a.host, archive)
	harness.SkiffPlane(a.host)
	harness.Kubelet(a.host, socket, argv...)
	config, err := adminConfig(a.host)
	if err != nil {
		return err
	}
	if a.client, err = connect(b.ctx, a.host); err != nil {
		return err
	}
	if a.web, err = kubeletClient(config); err != nil {
		return err
	}
	b.Cleanup(a.web.CloseIdleConnections)
	a.pods = watchPods(b, a.client)
	ctx, cancel := context.WithTimeout(b.ctx, nodeLimit)
	defer cancel()
	err = wait(ctx, func() error {
		node, err := a.client.CoreV1().Nodes().Get(ctx, a.host.Name, metav1.GetOptions{})
		if err == nil && !ready(node) {
			err = errors.New("the node is not Ready")
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s: %w", a.name, err)
	}
	// A pod is refused until its service account is there.
	return wait(ctx, func() error {
		_, err := a.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// kubeletClient asks a kubelet, whatever its certificate, with the administrator's.
func kubeletClient(config *rest.Config) (*http.Client, error) {
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{DialContext: config.Dial,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, GetClientCertificate: tlsConfig.GetClientCertificate, Certificates: tlsConfig.Certificates}}}, nil
}

// side is the field of a row that belongs to the kubelet.
func (a *agent) side(r *report.Row) **report.Stat {
	if a.name == "skiff" {
		return &r.Skiff
	}
	return &r.Peer
}

// podList is the namespace's pods as the API server tells them, by one watch.
type podList struct {
	store   cache.Store
	changed chan struct{} // capacity one: something has changed since it was last read
}

// watchPods watches until the end of the run.
func watchPods(b *bench, client kubernetes.Interface) *podList {
	l := &podList{changed: make(chan struct{}, 1)}
	poke := func() {
		select {
		case l.changed <- struct{}{}:
		default:
		}
	}
	store, run := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "pods", "default", fields.Everything()), ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{AddFunc: func(any) { poke() }, UpdateFunc: func(any, any) { poke() }, DeleteFunc: func(any) { poke() }},
	})
	ctx, cancel := context.WithCancel(b.ctx)
	ended := make(chan struct{})
	go func() { run.RunWithContext(ctx); close(ended) }()
	b.Cleanup(func() { cancel(); <-ended })
	l.store = store
	return l
}

// get is the newest that is known of a pod; nil when it does not exist.
func (l *podList) get(name string) *corev1.Pod {
	o, _, _ := l.store.GetByKey("default/" + name)
	p, _ := o.(*corev1.Pod)
	return p
}

// until waits, at most a minute, for the pods to be as wanted. One waits at a time.
func (l *podList) until(ctx context.Context, what string, wanted func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for !wanted() {
		select {
		case <-l.changed:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
	return nil
}

// running says whether every container of a pod runs, and has been restarted so often.
func (l *podList) running(name string, restarts int32) bool {
	p := l.get(name)
	if p == nil || p.Status.Phase != corev1.PodRunning {
		return false
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Running == nil || c.RestartCount != restarts {
			return false
		}
	}
	return len(p.Status.ContainerStatuses) == len(p.Spec.Containers)
}

// probes is how many probes the kubelet has carried out.
func (a *agent) probes(ctx context.Context) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:10250/metrics/probes", nil)
	if err != nil {
		return 0, err
	}
	resp, err := a.web.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("metrics of the kubelet of %s: %s: %w", a.name, resp.Status, err)
	}
	sum := 0.0
	for line := range strings.Lines(string(body)) {
		if !strings.HasPrefix(line, "prober_probe_total{") {
			continue
		}
		if !strings.Contains(line, `result="successful"`) {
			return 0, fmt.Errorf("a probe of %s has failed: %s", a.name, line)
		}
		n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndex(line, " "):]), 64)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}
