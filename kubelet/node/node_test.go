package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cri answers with what the test says.
type cri struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	mu      sync.Mutex
	network bool
	down    bool
}

func (c *cri) Status(context.Context, *runtimeapi.StatusRequest, ...grpc.CallOption) (*runtimeapi.StatusResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down {
		return nil, errors.New("down")
	}
	return &runtimeapi.StatusResponse{Status: status(true, c.network), RuntimeHandlers: []*runtimeapi.RuntimeHandler{{Name: "runc"}, {Name: ""}}}, nil
}

func (c *cri) Version(context.Context, *runtimeapi.VersionRequest, ...grpc.CallOption) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{RuntimeName: "skiff", RuntimeVersion: "0.1"}, nil
}

func (c *cri) ListImages(context.Context, *runtimeapi.ListImagesRequest, ...grpc.CallOption) (*runtimeapi.ListImagesResponse, error) {
	return &runtimeapi.ListImagesResponse{Images: []*runtimeapi.Image{{Id: "1", Size: 5, RepoTags: []string{"a:1"}}}}, nil
}

func (c *cri) set(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

func status(runtimeReady, network bool) *runtimeapi.RuntimeStatus {
	n := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: network}
	if !network {
		n.Reason, n.Message = "NetworkPluginNotReady", "cni plugin not initialized"
	}
	return &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{{Type: runtimeapi.RuntimeReady, Status: runtimeReady}, n}}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not in time: %s", what)
}

func readyOf(n *v1.Node) string {
	c := condition(n.Status.Conditions, v1.NodeReady)
	if c == nil {
		return "none"
	}
	return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
}

// TestFromRegistrationToReady plays the cluster: it assigns a pod range, upon which the network comes up.
func TestFromRegistrationToReady(t *testing.T) {
	client, rt := fake.NewClientset(), &cri{}
	var mu sync.Mutex
	var events, handed []string
	m, err := New(Config{Client: client, Runtime: rt, Images: rt, Period: time.Hour,
		Identity: Identity{Name: "n1", IPs: []string{"10.0.0.1", "fd00::1"}, Labels: map[string]string{"role": "x"},
			Taints: []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}}, Port: 10250, KubeletVersion: "v1.37.2"},
		PodCIDRs: func(_ context.Context, cidrs []string) error {
			mu.Lock()
			defer mu.Unlock()
			handed = append(handed, cidrs...)
			rt.set(func() { rt.network = true })
			return nil
		},
		Event: func(_, reason, _ string) {
			mu.Lock()
			defer mu.Unlock()
			events = append(events, reason)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	<-m.Registered()
	n, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := "False KubeletNotReady: container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"
	if got := readyOf(n); got != want {
		t.Errorf("ready: %s", got)
	}
	if n.Labels["role"] != "x" || n.Labels[v1.LabelHostname] != "n1" || len(n.Spec.Taints) != 1 ||
		n.Status.NodeInfo.ContainerRuntimeVersion != "skiff://0.1" || n.Status.NodeInfo.KubeletVersion != "v1.37.2" ||
		len(n.Status.Addresses) != 3 || n.Status.Addresses[2].Type != v1.NodeHostName || n.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Errorf("node %+v", n)
	}
	eventually(t, "the own Node is watched", func() bool {
		return slices.ContainsFunc(client.Actions(), func(a clienttesting.Action) bool { return a.GetVerb() == "watch" })
	})
	n.Spec.PodCIDRs = []string{"10.42.0.0/24"}
	if _, err := client.CoreV1().Nodes().Update(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "Ready", func() bool {
		n, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		return err == nil && readyOf(n) == "True KubeletReady: kubelet is posting ready status"
	})
	mu.Lock()
	if !slices.Equal(handed, []string{"10.42.0.0/24"}) {
		t.Errorf("handed on %q", handed)
	}
	mu.Unlock()
	eventually(t, "the event", func() bool { mu.Lock(); defer mu.Unlock(); return slices.Contains(events, "NodeReady") })
	mu.Lock()
	if want := []string{"NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeNotReady", "Starting"}; !slices.Equal(events[:5], want) {
		t.Errorf("events %q", events)
	}
	mu.Unlock()
	eventually(t, "the lease", func() bool {
		l, err := client.CoordinationV1().Leases(v1.NamespaceNodeLease).Get(ctx, "n1", metav1.GetOptions{})
		return err == nil && *l.Spec.HolderIdentity == "n1" && *l.Spec.LeaseDurationSeconds == 40 && len(l.OwnerReferences) == 1
	})

	rt.set(func() { rt.down = true })
	m.Wake()
	eventually(t, "runtime down", func() bool {
		n, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		return err == nil && readyOf(n) == "False KubeletNotReady: container runtime is down" &&
			n.Status.NodeInfo.ContainerRuntimeVersion == "skiff://0.1"
	})
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestTakesOverANodeThatExists(t *testing.T) {
	client, rt := fake.NewClientset(&v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"user": "kept", "role": "old"}},
		Spec:       v1.NodeSpec{Unschedulable: true},
		Status:     v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: "Custom", Status: v1.ConditionTrue}}},
	}), &cri{network: true}
	refusals := 2
	client.PrependReactor("create", "nodes", func(clienttesting.Action) (bool, runtime.Object, error) {
		refusals--
		return refusals >= 0, nil, errors.New("not yet")
	})
	m, err := New(Config{Client: client, Runtime: rt, Images: rt, Identity: Identity{Name: "n1", Labels: map[string]string{"role": "new"}}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	eventually(t, "taken over", func() bool {
		n, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		return err == nil && n.Labels["user"] == "kept" && n.Labels["role"] == "new" && n.Spec.Unschedulable &&
			strings.HasPrefix(readyOf(n), "True") && condition(n.Status.Conditions, "Custom") != nil
	})
	cancel()
	<-done
}

// TestMadeAnew: a machine that takes the name of a former one offers none of its devices from the first moment on; one that was only
// started again offers them on.
func TestMadeAnew(t *testing.T) {
	for _, anew := range []bool{true, false} {
		had := v1.ResourceList{v1.ResourceCPU: resource.MustParse("64"), "example.org/gauge": resource.MustParse("4"), "hugepages-2Mi": resource.MustParse("0")}
		client, rt := fake.NewClientset(&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1.NodeStatus{Capacity: had, Allocatable: had}}), &cri{network: true}
		failures := 1
		client.PrependReactor("patch", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
			failures--
			return anew && a.GetSubresource() == "status" && failures >= 0, nil, errors.New("not yet")
		})
		capacity := Capacity{Anew: func() bool { return anew }}
		m, err := New(Config{Client: client, Runtime: rt, Images: rt, Period: time.Hour, Capacity: capacity, Identity: Identity{Name: "n1"}})
		if err != nil {
			t.Fatal(err)
		}
		gauges := func(n *v1.Node) string {
			has, may := n.Status.Capacity["example.org/gauge"], n.Status.Allocatable["example.org/gauge"]
			return has.String() + " " + may.String()
		}
		want := map[bool]string{true: "0 0", false: "4 4"}[anew]
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		<-m.Registered()
		n, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
		if err != nil || gauges(n) != want || gauges(m.Node()) != want {
			t.Errorf("anew %v: at registration %s, %s, %v; want %s", anew, gauges(n), gauges(m.Node()), err, want)
		}
		eventually(t, "ready", func() bool {
			n, err = client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
			return err == nil && strings.HasPrefix(readyOf(n), "True")
		})
		if gauges(n) != want {
			t.Errorf("anew %v: in the end %s, want %s", anew, gauges(n), want)
		}
		cancel()
		<-done
	}
}

func TestRebooted(t *testing.T) {
	boot := func(id string) *v1.Node {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1.NodeStatus{NodeInfo: v1.NodeSystemInfo{BootID: id}}}
	}
	var told []string
	m := &Manager{cfg: Config{Event: func(kind, reason, message string) { told = append(told, kind+" "+reason+": "+message) }}}
	for _, step := range [][2]string{{"", "1"}, {"1", "1"}, {"1", "2"}} {
		m.announce(boot(step[0]), boot(step[1]))
	}
	if want := []string{"Warning Rebooted: Node n1 has been rebooted, boot id: 2"}; !slices.Equal(told, want) {
		t.Errorf("%q", told)
	}
}

func TestComputeIsStable(t *testing.T) {
	facts := Facts{CPUs: 2, Memory: 1 << 30, Storage: 10 << 30}
	o := Observed{Runtime: &runtimeapi.StatusResponse{Status: status(true, true)}}
	o.Capacity, o.Allocatable = resources(Capacity{MaxPods: 110, Reserved: func(v1.ResourceList) v1.ResourceList { return nil }}, facts)
	t0 := time.Unix(1000, 0)
	a := Compute(v1.NodeStatus{}, Identity{Name: "n"}, facts, o, t0)
	b := Compute(a, Identity{Name: "n"}, facts, o, t0.Add(time.Minute))
	if changed(a, b) {
		t.Errorf("changed without a cause:\n%+v\n%+v", a, b)
	}
	if c := condition(b.Conditions, v1.NodeReady); !c.LastTransitionTime.Time.Equal(t0) || c.LastHeartbeatTime.Time.Equal(t0) {
		t.Errorf("times: %+v", c)
	}
	if last := b.Conditions[len(b.Conditions)-1].Type; last != v1.NodeReady {
		t.Errorf("last condition is %s", last)
	}
	o.Pressure.Memory = true
	o.Problems = []error{errors.New("node is shutting down")}
	c := Compute(b, Identity{Name: "n"}, facts, o, t0.Add(2*time.Minute))
	if !changed(b, c) || condition(c.Conditions, v1.NodeMemoryPressure).Reason != "KubeletHasInsufficientMemory" ||
		condition(c.Conditions, v1.NodeReady).Message != "node is shutting down" {
		t.Errorf("got %+v", c.Conditions)
	}
}

func TestResources(t *testing.T) {
	c := Capacity{MaxPods: 5, Reserved: func(v1.ResourceList) v1.ResourceList {
		return v1.ResourceList{v1.ResourceMemory: resource.MustParse("100Mi"), v1.ResourceCPU: resource.MustParse("500m"),
			v1.ResourceEphemeralStorage: resource.MustParse("100Gi"), "unknown": resource.MustParse("1")}
	}}
	capacity, allocatable := resources(c, Facts{CPUs: 2, Memory: 1 << 30, Storage: 10 << 30, HugePages: map[int64]int64{2 << 20: 4 << 20}})
	for name, want := range map[v1.ResourceName][2]string{
		v1.ResourceCPU: {"2", "1500m"}, v1.ResourceMemory: {"1Gi", "920Mi"}, v1.ResourcePods: {"5", "5"},
		v1.ResourceEphemeralStorage: {"10Gi", "0"}, "hugepages-2Mi": {"4Mi", "4Mi"},
	} {
		has, may := capacity[name], allocatable[name]
		if has.String() != want[0] || may.String() != want[1] {
			t.Errorf("%s: %s, %s; want %s", name, has.String(), may.String(), want)
		}
	}
	if len(allocatable) != 5 {
		t.Errorf("allocatable %v", allocatable)
	}
	c.NoStorage = true
	for _, list := range pair(resources(c, Facts{CPUs: 2, Memory: 1 << 30, Storage: 10 << 30})) {
		if _, has := list[v1.ResourceEphemeralStorage]; has || len(list) != 3 {
			t.Errorf("without storage: %v", list)
		}
	}
}

func pair(a, b v1.ResourceList) [2]v1.ResourceList { return [2]v1.ResourceList{a, b} }

func TestImages(t *testing.T) {
	var list []*runtimeapi.Image
	for i := range 60 {
		list = append(list, &runtimeapi.Image{Id: fmt.Sprint(i), Size: uint64(i), RepoTags: []string{fmt.Sprint("t", i)}, RepoDigests: []string{"d"}})
	}
	list[59].RepoTags = []string{"1", "2", "3", "4", "5", "6"}
	got := images(largest(list, 50))
	if n := len(largest(list, -1)); n != 60 {
		t.Errorf("no limit: %d", n)
	}
	if len(got) != 50 || got[0].SizeBytes != 59 || len(got[0].Names) != 5 || got[1].Names[1] != "t58" {
		t.Errorf("got %d, first %+v", len(got), got[0])
	}
}

func TestCountList(t *testing.T) {
	for text, want := range map[string]int64{"0": 1, "0-3": 4, "0-1,4,6-7": 5, "": 0} {
		if got := countList(text); got != want {
			t.Errorf("%q: %d, want %d", text, got, want)
		}
	}
}

func TestReadFacts(t *testing.T) {
	f, err := ReadFacts(t.TempDir() + "/not/yet")
	if err != nil || f.CPUs < 1 || f.Memory < 1<<20 || f.Storage < 1<<20 || f.Info.KernelVersion == "" || f.Info.BootID == "" || f.DefaultIP == "" {
		t.Errorf("facts %+v, %v", f, err)
	}
}

// TestExternalCloud: the node waits for its cloud controller manager, and keeps the addresses that that one sets.
func TestExternalCloud(t *testing.T) {
	id := Identity{Name: "n", Hostname: "n", IPs: []string{"10.0.0.5"}, ExternalCloud: true}
	hostname := v1.NodeAddress{Type: v1.NodeHostName, Address: "n"}
	internal := v1.NodeAddress{Type: v1.NodeInternalIP, Address: "10.0.0.5"}
	cloud := []v1.NodeAddress{{Type: v1.NodeExternalIP, Address: "192.0.2.1"}}
	if got := addresses(id, nil); !slices.Equal(got, []v1.NodeAddress{hostname}) {
		t.Errorf("before the cloud, without --node-ip: %v", got)
	}
	id.GivenIPs = id.IPs
	if got := addresses(id, nil); !slices.Equal(got, []v1.NodeAddress{internal, hostname}) {
		t.Errorf("before the cloud, with --node-ip: %v", got)
	}
	if got := addresses(id, cloud); !slices.Equal(got, cloud) {
		t.Errorf("after the cloud: %v", got)
	}
	n := introduced(id)
	if len(n.Spec.Taints) != 1 || n.Spec.Taints[0].Key != "node.cloudprovider.kubernetes.io/uninitialized" ||
		n.Annotations["alpha.kubernetes.io/provided-node-ip"] != "10.0.0.5" {
		t.Errorf("%+v", n)
	}
}

// TestUnattached: where the cluster is not to attach volumes, the annotation that lets it goes, whoever set it.
func TestUnattached(t *testing.T) {
	attached, unattached := introduced(Identity{Name: "n"}), introduced(Identity{Name: "n", Unattached: true})
	for _, tc := range []struct {
		want, got *v1.Node
		patch     string
	}{
		{attached, attached, "map[]"},
		{unattached, unattached, "map[]"},
		{attached, unattached, "map[annotations:map[volumes.kubernetes.io/controller-managed-attach-detach:true]]"},
		{unattached, attached, "map[annotations:map[volumes.kubernetes.io/controller-managed-attach-detach:<nil>]]"},
	} {
		if got := fmt.Sprint(corrections(tc.want, tc.got)); got != tc.patch {
			t.Errorf("%s, want %s", got, tc.patch)
		}
	}
}
