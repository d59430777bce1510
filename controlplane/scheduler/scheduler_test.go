package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/component-helpers/storage/volume"
)

// cluster is a fake API with a scheduler at work.
type cluster struct {
	t      *testing.T
	client *fake.Clientset
}

// start runs a scheduler on a fake API that binds as the real one does, unless refuse says otherwise.
func start(t *testing.T, refuse func(pod, node string) error, objects ...runtime.Object) *cluster {
	t.Helper()
	client := fake.NewClientset(objects...)
	pods := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
	client.PrependReactor("create", "pods", func(action clienttesting.Action) (bool, runtime.Object, error) {
		if action.GetSubresource() != "binding" {
			return false, nil, nil
		}
		b := action.(clienttesting.CreateAction).GetObject().(*v1.Binding)
		if refuse != nil {
			if err := refuse(b.Name, b.Target.Name); err != nil {
				return true, nil, err
			}
		}
		obj, err := client.Tracker().Get(pods, b.Namespace, b.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*v1.Pod).DeepCopy()
		pod.Spec.NodeName = b.Target.Name
		return true, b, client.Tracker().Update(pods, pod, b.Namespace)
	})
	s, err := New(Config{Client: client, Informers: informers.NewSharedInformerFactory(client, 0)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	return &cluster{t: t, client: client}
}

func node(name string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}}}
	n.Status.Allocatable = v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourcePods: resource.MustParse("10"),
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func pod(name, cpu string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)}}
	p.Spec.SchedulerName = "default-scheduler"
	p.Spec.Containers = []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}}}
	for _, c := range change {
		c(p)
	}
	return p
}

func at(node string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.NodeName = node } }

func important(n int32) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.Priority = &n } }

// eventually waits until what the function returns is as wanted.
func (c *cluster) eventually(what, want string, got func() string) {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	var last string
	for {
		if last = got(); last == want {
			return
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("%s: got\n %s\nwant\n %s", what, last, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func (c *cluster) create(pods ...*v1.Pod) {
	c.t.Helper()
	for _, p := range pods {
		if _, err := c.client.CoreV1().Pods(p.Namespace).Create(context.Background(), p, metav1.CreateOptions{}); err != nil {
			c.t.Fatal(err)
		}
	}
}

// where lists pods as "name@node".
func (c *cluster) where() string {
	list, err := c.client.CoreV1().Pods("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, p := range list.Items {
		out = append(out, p.Name+"@"+p.Spec.NodeName)
	}
	sort.Strings(out)
	return strings.Join(out, " ")
}

func (c *cluster) condition(name string) string {
	p, err := c.client.CoreV1().Pods("default").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		return err.Error()
	}
	got := find(p, v1.PodScheduled)
	if got == nil {
		return ""
	}
	return fmt.Sprintf("%s %s: %s", got.Status, got.Reason, got.Message)
}

func (c *cluster) events(about string) string {
	list, err := c.client.EventsV1().Events("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var out []string
	for _, e := range list.Items {
		if e.Regarding.Name == about {
			out = append(out, fmt.Sprintf("%s %s %s: %s", e.ReportingController, e.Type, e.Reason, e.Note))
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func TestPodsAreSpreadOverNodesAndReported(t *testing.T) {
	c := start(t, nil, node("a"), node("b"))
	c.create(pod("p", "600m"))
	c.create(pod("q", "600m"))
	c.eventually("placement", "bound", func() string {
		if w := c.where(); w == "p@a q@b" || w == "p@b q@a" {
			return "bound"
		}
		return c.where()
	})
	c.eventually("event", "yes", func() string {
		if strings.HasPrefix(c.events("p"), "default-scheduler Normal Scheduled: Successfully assigned default/p to ") {
			return "yes"
		}
		return c.events("p")
	})
}

func TestRefusalAndCure(t *testing.T) {
	c := start(t, nil, node("a"), pod("old", "700m", at("a")))
	c.create(pod("p", "500m"))
	const why = "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
	c.eventually("condition", "False Unschedulable: "+why, func() string { return c.condition("p") })
	c.eventually("event", "default-scheduler Warning FailedScheduling: "+why, func() string { return c.events("p") })
	if err := c.client.CoreV1().Pods("default").Delete(context.Background(), "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("placement", "p@a", c.where)
}

func TestWaitsForANode(t *testing.T) {
	c := start(t, nil)
	c.create(pod("p", "100m"))
	c.eventually("condition", "False Unschedulable: no nodes available to schedule pods", func() string { return c.condition("p") })
	tainted := node("a", func(n *v1.Node) {
		n.Spec.Taints = []v1.Taint{{Key: v1.TaintNodeNotReady, Effect: v1.TaintEffectNoSchedule}}
	})
	if _, err := c.client.CoreV1().Nodes().Create(context.Background(), tainted, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const why = "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
	c.eventually("condition", "False Unschedulable: "+why, func() string { return c.condition("p") })
	if _, err := c.client.CoreV1().Nodes().Update(context.Background(), node("a"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("placement", "p@a", c.where)
}

func TestNotOurs(t *testing.T) {
	c := start(t, nil, node("a"))
	c.create(
		pod("gated", "1m", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "wait"}} }),
		pod("other", "1m", func(p *v1.Pod) { p.Spec.SchedulerName = "other" }),
		pod("ours", "1m"))
	c.eventually("placement", "gated@ other@ ours@a", c.where)
	if _, err := c.client.CoreV1().Pods("default").Update(context.Background(), pod("gated", "1m"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("placement", "gated@a other@ ours@a", c.where)
}

func TestBindingIsRetried(t *testing.T) {
	fails := 1
	c := start(t, func(string, string) error {
		if fails--; fails >= 0 {
			return errors.New("the API is away")
		}
		return nil
	}, node("a"))
	c.create(pod("p", "800m"))
	c.eventually("placement", "p@a", c.where)
}

func TestImportantPodTakesTheRoomOfOthers(t *testing.T) {
	c := start(t, nil, node("a"),
		pod("low", "300m", at("a"), important(1)), pod("lower", "300m", at("a"), important(0)), pod("high", "300m", at("a"), important(9)))
	c.create(pod("p", "400m", important(5)))
	c.eventually("placement", "high@a low@a p@a", c.where)
	c.eventually("event", "default-scheduler Normal Preempted: Preempted by pod p on node a", func() string { return c.events("lower") })
}

func TestNeverPreempting(t *testing.T) {
	never := v1.PreemptNever
	c := start(t, nil, node("a"), pod("low", "800m", at("a"), important(1)))
	c.create(pod("p", "400m", important(5), func(p *v1.Pod) { p.Spec.PreemptionPolicy = &never }))
	c.eventually("condition",
		"False Unschedulable: 0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.",
		func() string { return c.condition("p") })
}

func TestVolumeForFirstConsumer(t *testing.T) {
	mode, class := storagev1.VolumeBindingWaitForFirstConsumer, "local"
	claim := &v1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "data"},
		Spec: v1.PersistentVolumeClaimSpec{StorageClassName: &class}}
	c := start(t, nil, node("a"), claim,
		&storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Provisioner: "example.com/p", VolumeBindingMode: &mode})
	c.create(pod("p", "1m", func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}}}
	}))
	claims := c.client.CoreV1().PersistentVolumeClaims("default")
	var got *v1.PersistentVolumeClaim
	c.eventually("selected node", "a", func() (on string) {
		var err error
		if got, err = claims.Get(context.Background(), "data", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		return got.Annotations[volume.AnnSelectedNode]
	})
	if w := c.where(); w != "p@" {
		t.Errorf("bound before its volume came: %s", w)
	}
	if _, err := c.client.CoreV1().PersistentVolumes().Create(context.Background(), &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	got.Spec.VolumeName = "pv"
	got.Annotations[volume.AnnBindCompleted] = "yes"
	if _, err := claims.Update(context.Background(), got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("placement", "p@a", c.where)
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := New(Config{}); err == nil || !strings.Contains(err.Error(), "Client") {
		t.Errorf("no client: %v", err)
	}
	if _, err := New(Config{Client: fake.NewClientset()}); err == nil || !strings.Contains(err.Error(), "Informers") {
		t.Errorf("no informers: %v", err)
	}
}
