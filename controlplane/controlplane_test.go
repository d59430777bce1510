package controlplane

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-node/skiff/controlplane/etcd"
	"github.com/skiff-node/skiff/controlplane/pki"
)

// cluster is a control plane at work, and a fake node whose pods run as soon as they are bound.
type cluster struct {
	t      *testing.T
	plane  *ControlPlane
	client kubernetes.Interface
}

func config(dir string) Config {
	return Config{
		Etcd:             etcd.Config{Dir: filepath.Join(dir, "etcd"), UnsafeNoFsync: true},
		Certificates:     pki.Config{Dir: filepath.Join(dir, "pki"), NodeName: "a", NodeIPs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}, APIServerURL: "https://127.0.0.1:0"},
		BindAddress:      "127.0.0.1",
		Port:             -1,
		AdvertiseAddress: netip.MustParseAddr("127.0.0.1"),
	}
}

func run(t *testing.T, dir string) *cluster {
	t.Helper()
	plane, err := New(config(dir))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- plane.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-plane.Ready():
	case err := <-done:
		done <- err
		t.Fatalf("Run ended: %v", err)
	case <-time.After(time.Minute):
		t.Fatal("not ready")
	}
	client := kubernetes.NewForConfigOrDie(plane.Loopback())
	return &cluster{t: t, plane: plane, client: client}
}

func (c *cluster) ctx() context.Context { return c.t.Context() }

// eventually polls until the function returns what is wanted.
func (c *cluster) eventually(what, want string, got func() (string, error)) {
	c.t.Helper()
	deadline := time.Now().Add(40 * time.Second)
	for {
		last, err := got()
		if err == nil && last == want {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: got %q, %v; want %q", what, last, err, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *cluster) addNode(name, ip string) {
	c.t.Helper()
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}
	if _, err := c.client.CoreV1().Nodes().Create(c.ctx(), n, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
	room := v1.ResourceList{v1.ResourceCPU: resource.MustParse("4"), v1.ResourceMemory: resource.MustParse("8Gi"), v1.ResourcePods: resource.MustParse("110")}
	now := metav1.Now()
	patch, err := json.Marshal(map[string]any{"status": v1.NodeStatus{
		Capacity: room, Allocatable: room,
		Addresses:  []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: ip}},
		Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue, LastHeartbeatTime: now, LastTransitionTime: now, Reason: "KubeletReady"}},
	}})
	if err != nil {
		c.t.Fatal(err)
	}
	if _, err := c.client.CoreV1().Nodes().Patch(c.ctx(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		c.t.Fatal(err)
	}
}

// kubelets runs what is bound and ends what is to be deleted, until the test ends.
func (c *cluster) kubelets() {
	factory := informers.NewSharedInformerFactory(c.client, 0)
	var next atomic.Int32
	act := func(obj any) {
		pod := obj.(*v1.Pod)
		if pod.Spec.NodeName == "" {
			return
		}
		if err := c.kubelet(pod, &next); err != nil && !apierrors.IsNotFound(err) && c.ctx().Err() == nil {
			c.t.Log(err)
		}
	}
	_, err := factory.Core().V1().Pods().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: act, UpdateFunc: func(_, obj any) { act(obj) },
	})
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	factory.StartWithContext(ctx)
	c.t.Cleanup(func() {
		stop()
		factory.Shutdown()
	})
}

// kubelet does what a kubelet would to one pod, in no time.
func (c *cluster) kubelet(pod *v1.Pod, next *atomic.Int32) error {
	api := c.client.CoreV1().Pods(pod.Namespace)
	if pod.DeletionTimestamp != nil {
		zero := int64(0)
		return api.Delete(c.ctx(), pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &zero})
	}
	if pod.Status.Phase != v1.PodPending {
		return nil
	}
	ip := fmt.Sprintf("10.42.0.%d", next.Add(1)+1)
	patch := fmt.Sprintf(`{"status":{"phase":"Running","podIP":"%s","podIPs":[{"ip":"%s"}],
		"conditions":[{"type":"Ready","status":"True"},{"type":"ContainersReady","status":"True"}]}}`, ip, ip)
	_, err := api.Patch(c.ctx(), pod.Name, types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status")
	return err
}

func template(app string) v1.PodTemplateSpec {
	return v1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": app}},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "example.com/" + app + ":1"}}},
	}
}

func (c *cluster) deploy(namespace, app string, replicas int32) *appsv1.Deployment {
	c.t.Helper()
	d, err := c.client.AppsV1().Deployments(namespace).Create(c.ctx(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: app},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Template: template(app),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": app}}},
	}, metav1.CreateOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	return d
}

func (c *cluster) deploymentStatus(namespace, name string) func() (string, error) {
	return func() (string, error) {
		d, err := c.client.AppsV1().Deployments(namespace).Get(c.ctx(), name, metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		s := d.Status
		return fmt.Sprintf("%d/%d/%d ready/updated/all, seen %v", s.ReadyReplicas, s.UpdatedReplicas, s.Replicas, s.ObservedGeneration == d.Generation), nil
	}
}

func (c *cluster) ready(namespace string) {
	c.t.Helper()
	c.eventually("service account", "default", func() (string, error) {
		a, err := c.client.CoreV1().ServiceAccounts(namespace).Get(c.ctx(), "default", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		return a.Name, nil
	})
}

// TestCluster is one story on one control plane; starting one per step would take most of the time.
func TestCluster(t *testing.T) {
	c := run(t, t.TempDir())
	c.kubelets()
	c.addNode("a", "192.0.2.1")
	c.ready("default")
	t.Run("a node gets its part of the pod range", c.nodeRange)
	t.Run("a deployment runs, serves, rolls and scales", c.rollout)
	t.Run("deleting an owner deletes what it owns", c.cascade)
	t.Run("a job completes", c.job)
	t.Run("a namespace goes with all it holds", c.namespace)
	t.Run("the cluster's DNS can be found", c.dns)
	t.Run("each namespace has the cluster's CA", c.rootCA)
	t.Run("components may what they need", c.permissions)
}

func (c *cluster) nodeRange(t *testing.T) {
	c = &cluster{t, c.plane, c.client}
	c.eventually("pod range", "10.42.0.0/24", func() (string, error) {
		n, err := c.client.CoreV1().Nodes().Get(c.ctx(), "a", metav1.GetOptions{})
		return n.Spec.PodCIDR, err
	})
}

func (c *cluster) rollout(t *testing.T) {
	c = &cluster{t, c.plane, c.client}
	c.deploy("default", "web", 3)
	_, err := c.client.CoreV1().Services("default").Create(c.ctx(), &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       v1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []v1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("deployment", "3/3/3 ready/updated/all, seen true", c.deploymentStatus("default", "web"))
	c.eventually("endpoint slice", "3 ready", func() (string, error) { return c.endpoints("default", "web") })
	start := time.Now()
	c.scale("web", 30)
	c.eventually("scaled", "30/30/30 ready/updated/all, seen true", c.deploymentStatus("default", "web"))
	t.Logf("scaled from 3 to 30 in %v", time.Since(start))
	c.scale("web", 2)
	c.eventually("scaled", "2/2/2 ready/updated/all, seen true", c.deploymentStatus("default", "web"))

	patch := `{"spec":{"template":{"spec":{"containers":[{"name":"c","image":"example.com/web:2"}]}}}}`
	if _, err := c.client.AppsV1().Deployments("default").Patch(c.ctx(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("rolled", "2/2/2 ready/updated/all, seen true", c.deploymentStatus("default", "web"))
	c.eventually("images", "example.com/web:2 example.com/web:2", func() (string, error) {
		pods, err := c.client.CoreV1().Pods("default").List(c.ctx(), metav1.ListOptions{LabelSelector: "app=web"})
		var images []string
		for _, p := range pods.Items {
			images = append(images, p.Spec.Containers[0].Image)
		}
		sort.Strings(images)
		return strings.Join(images, " "), err
	})
}

func (c *cluster) scale(name string, replicas int) {
	c.t.Helper()
	patch := fmt.Sprintf(`{"spec":{"replicas":%d}}`, replicas)
	if _, err := c.client.AppsV1().Deployments("default").Patch(c.ctx(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

func (c *cluster) endpoints(namespace, service string) (string, error) {
	list, err := c.client.DiscoveryV1().EndpointSlices(namespace).List(c.ctx(), metav1.ListOptions{LabelSelector: "kubernetes.io/service-name=" + service})
	if err != nil {
		return "", err
	}
	ready := 0
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && *e.Conditions.Ready {
				ready++
			}
		}
	}
	return fmt.Sprintf("%d ready", ready), nil
}

func (c *cluster) cascade(t *testing.T) {
	c = &cluster{t, c.plane, c.client}
	c.deploy("default", "gone", 2)
	c.eventually("deployment", "2/2/2 ready/updated/all, seen true", c.deploymentStatus("default", "gone"))
	background := metav1.DeletePropagationBackground
	if err := c.client.AppsV1().Deployments("default").Delete(c.ctx(), "gone", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	c.eventually("what is left", "0 replica sets, 0 pods", func() (string, error) {
		rs, err := c.client.AppsV1().ReplicaSets("default").List(c.ctx(), metav1.ListOptions{LabelSelector: "app=gone"})
		if err != nil {
			return "", err
		}
		pods, err := c.client.CoreV1().Pods("default").List(c.ctx(), metav1.ListOptions{LabelSelector: "app=gone"})
		return fmt.Sprintf("%d replica sets, %d pods", len(rs.Items), len(pods.Items)), err
	})
}

func (c *cluster) job(t *testing.T) {
	c = &cluster{t, c.plane, c.client}
	tpl := template("once")
	tpl.Spec.RestartPolicy = v1.RestartPolicyNever
	if _, err := c.client.BatchV1().Jobs("default").Create(c.ctx(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "once"}, Spec: batchv1.JobSpec{Template: tpl}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	var name string
	c.eventually("pod", "Running", func() (string, error) {
		pods, err := c.client.CoreV1().Pods("default").List(c.ctx(), metav1.ListOptions{LabelSelector: "job-name=once"})
		if err != nil || len(pods.Items) == 0 {
			return "", err
		}
		name = pods.Items[0].Name
		return string(pods.Items[0].Status.Phase), nil
	})
	if _, err := c.client.CoreV1().Pods("default").Patch(c.ctx(), name, types.MergePatchType, []byte(`{"status":{"phase":"Succeeded"}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	c.eventually("job", "Complete", func() (string, error) {
		j, err := c.client.BatchV1().Jobs("default").Get(c.ctx(), "once", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		for _, cond := range j.Status.Conditions {
			if cond.Type == batchv1.JobComplete && cond.Status == v1.ConditionTrue {
				return string(cond.Type), nil
			}
		}
		return fmt.Sprint(j.Status), nil
	})
}

func (c *cluster) namespace(t *testing.T) {
	c = &cluster{t, c.plane, c.client}
	if _, err := c.client.CoreV1().Namespaces().Create(c.ctx(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "short"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.ready("short")
	c.deploy("short", "app", 1)
	c.eventually("deployment", "1/1/1 ready/updated/all, seen true", c.deploymentStatus("short", "app"))
	if err := c.client.CoreV1().Namespaces().Delete(c.ctx(), "short", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("namespace", "gone", func() (string, error) {
		_, err := c.client.CoreV1().Namespaces().Get(c.ctx(), "short", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return "gone", nil
		}
		return "there", err
	})
}

func (c *cluster) dns(t *testing.T) {
	c = &cluster{t, c.plane, c.client}
	service := func() (string, error) {
		s, err := c.client.CoreV1().Services("kube-system").Get(c.ctx(), "kube-dns", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		return s.Spec.ClusterIP + " " + s.Labels["service.kubernetes.io/service-proxy-name"], nil
	}
	c.eventually("service", "10.43.0.10 skiff-dns", service)
	c.eventually("endpoints", "1 ready", func() (string, error) { return c.endpoints("kube-system", "kube-dns") })
	c.addNode("b", "192.0.2.2")
	c.eventually("endpoints", "2 ready", func() (string, error) { return c.endpoints("kube-system", "kube-dns") })
	if err := c.client.CoreV1().Services("kube-system").Delete(c.ctx(), "kube-dns", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("service", "10.43.0.10 skiff-dns", service)
}

func (c *cluster) rootCA(t *testing.T) {
	c = &cluster{t, c.plane, c.client}
	want, err := os.ReadFile(c.plane.Paths().CA.Cert)
	if err != nil {
		t.Fatal(err)
	}
	c.eventually("CA", string(want), func() (string, error) {
		m, err := c.client.CoreV1().ConfigMaps("default").Get(c.ctx(), "kube-root-ca.crt", metav1.GetOptions{})
		if err != nil {
			return "", err
		}
		return m.Data["ca.crt"], nil
	})
}

// permissions tries the kubeconfigs of the components against the real port.
func (c *cluster) permissions(t *testing.T) {
	c = &cluster{t, c.plane, c.client}
	files := c.plane.Paths().Kubeconfigs
	lists := map[string]func(kubernetes.Interface) error{
		"services": func(k kubernetes.Interface) error {
			_, err := k.CoreV1().Services("").List(c.ctx(), metav1.ListOptions{})
			return err
		},
		"slices": func(k kubernetes.Interface) error {
			_, err := k.DiscoveryV1().EndpointSlices("").List(c.ctx(), metav1.ListOptions{})
			return err
		},
		"secrets": func(k kubernetes.Interface) error {
			_, err := k.CoreV1().Secrets("").List(c.ctx(), metav1.ListOptions{})
			return err
		},
	}
	for _, tc := range []struct {
		who, file string
		may       []string
	}{
		{"admin", files.Admin, []string{"secrets", "services", "slices"}},
		{"proxy", files.Proxy, []string{"services", "slices"}},
		{"dns", files.DNS, []string{"services", "slices"}},
		{"kubelet", files.Kubelet, []string{"services"}},
	} {
		cfg, err := clientcmd.BuildConfigFromFlags("", tc.file)
		if err != nil {
			t.Fatal(err)
		}
		cfg.Host = "https://" + c.plane.Addr().String()
		client := kubernetes.NewForConfigOrDie(rest.CopyConfig(cfg))
		c.eventually(tc.who+" may list", strings.Join(tc.may, " "), func() (string, error) {
			var may []string
			for what, list := range lists {
				err := list(client)
				if err == nil {
					may = append(may, what)
				} else if !apierrors.IsForbidden(err) {
					return "", err
				}
			}
			slices.Sort(may)
			return strings.Join(may, " "), nil
		})
	}
}

// TestRestart stops a control plane and starts another over its files.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	t.Run("first", func(t *testing.T) {
		c := run(t, dir)
		c.ready("default")
		c.deploy("default", "web", 1)
		if _, err := New(config(dir)); err == nil {
			t.Error("a second one over the same directory must be refused")
		}
	})
	t.Run("second", func(t *testing.T) {
		c := run(t, dir)
		c.kubelets()
		c.addNode("a", "192.0.2.1")
		c.eventually("deployment", "1/1/1 ready/updated/all, seen true", c.deploymentStatus("default", "web"))
	})
}

// A busy port is an error that names it, and frees the data directory.
func TestBusyPort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config(t.TempDir())
	cfg.Port = l.Addr().(*net.TCPAddr).Port
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), l.Addr().String()) {
		t.Errorf("got %v, want an error about %s", err, l.Addr())
	}
	l.Close()
	plane, err := New(cfg)
	if err != nil {
		t.Fatalf("and with the port free: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := plane.Run(ctx); err != nil {
		t.Errorf("Run of a control plane that has to stop at once: %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, tc := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"no address", func(c *Config) { c.AdvertiseAddress = netip.Addr{} }, "AdvertiseAddress"},
		{"ranges overlap", func(c *Config) { c.PodCIDR = netip.MustParsePrefix("10.43.128.0/17") }, "overlap"},
		{"DNS elsewhere", func(c *Config) { c.DNSAddress = netip.MustParseAddr("10.96.0.10") }, "DNSAddress"},
		{"no certificates", func(c *Config) { c.Certificates.Dir = "" }, "Dir"},
		{"no store", func(c *Config) { c.Etcd.Dir = "" }, "etcd"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t.TempDir())
			tc.change(&cfg)
			if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want an error about %s", err, tc.want)
			}
		})
	}
}
