package dra

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
	api "k8s.io/kubelet/pkg/apis/dra/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	resourceapi "k8s.io/api/resource/v1"
	"sigs.k8s.io/yaml"

	"github.com/skiff-node/skiff/kubelet/dra/dratest"
	"github.com/skiff-node/skiff/kubelet/plugin"
	"github.com/skiff-node/skiff/kubelet/whole/wholetest"
)

const driverName = "gadget.example.org"

// bench is a node with claims in an API, and whatever drivers a test starts.
type bench struct {
	t      *testing.T
	dir    string
	client *fake.Clientset
	node   *Node
	mu     sync.Mutex
	pods   map[types.UID]*v1.Pod
	woken  chan types.UID
}

func newBench(t *testing.T) *bench {
	dir, err := os.MkdirTemp("", "dra") // short: paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{t: t, dir: dir, client: fake.NewClientset(), pods: map[types.UID]*v1.Pod{}, woken: make(chan types.UID, 100)}
	b.restart()
	return b
}

// Pods, Wake and Retry are a pool's.
func (b *bench) Pods() (list []*v1.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.pods {
		list = append(list, p)
	}
	return list
}
func (b *bench) Wake(uid types.UID)  { b.woken <- uid }
func (b *bench) Retry(uid types.UID) { b.woken <- uid }

type uncounted struct{}

func (uncounted) ClaimsOperated(string, string, time.Duration)       {}
func (uncounted) DriverCalled(string, string, string, time.Duration) {}
func (uncounted) ClaimsInUse(func() map[string]int)                  {}

// restart makes a new node on the same directory, as after the kubelet was killed; the old one knows nothing of it.
func (b *bench) restart() {
	b.t.Helper()
	n, err := NewNode(NodeConfig{Dir: b.dir, Client: b.client, Name: "node", Registered: func() bool { return true }, Dial: plugin.Dial,
		Pods: func() Pods { return b }, Counts: uncounted{}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.node = n
	w, err := plugin.New(plugin.Config{Dir: filepath.Join(b.dir, "r"), Handlers: map[string]plugin.Handler{"DRAPlugin": n.Drivers}})
	if err != nil {
		b.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.Run(ctx) }()
	go func() { done <- n.Run(ctx) }()
	b.t.Cleanup(func() {
		stop()
		for range 2 {
			if err := <-done; err != nil {
				b.t.Error(err)
			}
		}
	})
}

// driver starts one, whose devices a claim's name lists, and waits until the node has it.
func (b *bench) driver(o dratest.Options) *dratest.Driver {
	b.t.Helper()
	o.Dir, o.Registry = filepath.Join(b.dir, o.Name), filepath.Join(b.dir, "r")
	o.Allocated = func(_ context.Context, c *api.Claim) ([]*api.Device, error) {
		var list []*api.Device
		for _, name := range strings.Split(c.Name, "-") {
			list = append(list, &api.Device{PoolName: "pool", DeviceName: name, RequestNames: []string{"want-" + name}})
		}
		return list, nil
	}
	d, err := dratest.Start(o)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(d.Stop)
	b.until("the driver can be reached", func() bool { return b.node.Drivers.Reachable(o.Name) })
	return d
}

func (b *bench) until(what string, ok func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatal("not in time: " + what)
		}
	}
}

// claim puts an allocated claim into the API, reserved for those pods.
func (b *bench) claim(name string, drivers []string, pods ...*v1.Pod) *resourceapi.ResourceClaim {
	b.t.Helper()
	c := &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID("uid-" + name)}}
	c.Status.Allocation = &resourceapi.AllocationResult{}
	for _, d := range drivers {
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resourceapi.DeviceRequestAllocationResult{Driver: d})
	}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourceapi.ResourceClaimConsumerReference{UID: p.UID})
	}
	if err := b.client.Tracker().Add(c); err != nil {
		b.t.Fatal(err)
	}
	return c
}

func (b *bench) pod(name, text string) *v1.Pod {
	b.t.Helper()
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		b.t.Fatal(err)
	}
	p.Name, p.Namespace, p.UID = name, "ns", types.UID(name)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pods[p.UID] = p
	return p
}

const twoClaims = `
spec:
  resourceClaims: [{name: x, resourceClaimName: a-b}, {name: z, resourceClaimName: c}]
  initContainers: [{name: init, resources: {claims: [{name: z}]}}]
  containers: [{name: main, resources: {claims: [{name: x, request: want-b}]}}, {name: all, resources: {claims: [{name: x}, {name: z}]}}, {name: none}]`

func (b *bench) prepare(p *v1.Pod) {
	b.t.Helper()
	if err := b.node.Prepare(b.t.Context(), p); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) release(p *v1.Pod) {
	b.t.Helper()
	if err := b.node.Release(b.t.Context(), p.UID); err != nil {
		b.t.Fatal(err)
	}
}

func asked(t *testing.T, d *dratest.Driver, want ...string) {
	t.Helper()
	if got := d.Asked(); !slices.Equal(got, want) {
		t.Errorf("the driver was asked %q, want %q", got, want)
	}
}

func TestPrepareAndRelease(t *testing.T) {
	b := newBench(t)
	d := b.driver(dratest.Options{Name: driverName})
	p := b.pod("p", twoClaims)
	q := b.pod("q", `spec: {resourceClaims: [{name: x, resourceClaimName: a-b}], containers: [{name: main, resources: {claims: [{name: x, request: want-a}]}}]}`)
	b.claim("a-b", []string{driverName}, p, q)
	b.claim("c", []string{driverName}, p)
	b.prepare(p)
	b.prepare(p) // again: nothing is missing
	b.prepare(q) // shared
	asked(t, d, "prepare a-b", "prepare c")
	a, bb, c := driverName+"/claim=uid-a-b-a", driverName+"/claim=uid-a-b-b", driverName+"/claim=uid-c-c"
	for _, tc := range []struct {
		p    *v1.Pod
		c    *v1.Container
		want []string
	}{
		{p, &p.Spec.Containers[0], []string{bb}}, {p, &p.Spec.Containers[1], []string{a, bb, c}}, {p, &p.Spec.Containers[2], nil},
		{p, &p.Spec.InitContainers[0], []string{c}}, {q, &q.Spec.Containers[0], []string{a}},
	} {
		if got, err := b.node.Devices(tc.p, tc.c); err != nil || !slices.Equal(got, tc.want) {
			t.Errorf("%s of %s has %q (%v), want %q", tc.c.Name, tc.p.Name, got, err, tc.want)
		}
	}
	if n := b.node.InUse(); n["<any>"] != 2 || n[driverName] != 2 {
		t.Error(n)
	}
	out := &podresources.ContainerResources{}
	b.node.Container(p, "all", out)
	if len(out.DynamicResources) != 2 || out.DynamicResources[0].ClaimName != "a-b" || len(out.DynamicResources[0].ClaimResources) != 2 ||
		out.DynamicResources[0].ClaimResources[1].CdiDevices[0].Name != bb {
		t.Error(out)
	}
	b.release(p)
	asked(t, d, "prepare a-b", "prepare c", "unprepare c")
	if b.node.Holds("p") || !b.node.Holds("q") {
		t.Error("p holds devices, or q none")
	}
	b.release(q)
	b.release(q)
	asked(t, d, "prepare a-b", "prepare c", "unprepare c", "unprepare a-b")
	if d.Prepared() != 0 {
		t.Error("something is still prepared")
	}
}

// A driver of an older release speaks v1beta1; two drivers share a claim.
func TestTwoDrivers(t *testing.T) {
	b := newBench(t)
	old, d := b.driver(dratest.Options{Name: "old.example.org", Old: true}), b.driver(dratest.Options{Name: driverName})
	p := b.pod("p", `spec: {resourceClaims: [{name: x, resourceClaimName: a}], containers: [{name: main, resources: {claims: [{name: x}]}}]}`)
	b.claim("a", []string{driverName, "old.example.org"}, p)
	old.Fail("prepare", "not today")
	err := b.node.Prepare(t.Context(), p)
	if want := "prepare dynamic resources: NodePrepareResources failed for ResourceClaim a: not today"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	old.Fail("prepare", "")
	b.prepare(p)
	if got, err := b.node.Devices(p, &p.Spec.Containers[0]); err != nil || len(got) != 2 {
		t.Errorf("%q %v", got, err)
	}
	old.Fail("unprepare", "stuck")
	err = b.node.Release(t.Context(), p.UID)
	if want := "unprepare dynamic resources: NodeUnprepareResources failed for ResourceClaim a: stuck"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
	if !b.node.Holds(p.UID) {
		t.Error("forgotten although it is still prepared")
	}
	old.Fail("unprepare", "")
	b.release(p)
	asked(t, old, "prepare a", "prepare a", "unprepare a", "unprepare a")
	if d.Prepared() != 0 || old.Prepared() != 0 {
		t.Error("something is still prepared")
	}
}

func TestRefusals(t *testing.T) {
	b := newBench(t)
	p := b.pod("p", `{metadata: {}, spec: {resourceClaims: [{name: x, resourceClaimName: a}], containers: [{name: main}]}}`)
	try := func(want string) {
		t.Helper()
		err := b.node.Prepare(t.Context(), p)
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if b.node.Holds(p.UID) {
			t.Error("something is held")
		}
	}
	try(`fetch ResourceClaim a: resourceclaims.resource.k8s.io "a" not found`)
	c := b.claim("a", []string{driverName})
	update := func(change func()) {
		t.Helper()
		change()
		if _, err := b.client.ResourceV1().ResourceClaims("ns").Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	try("pod p (p) is not allowed to use ResourceClaim a (uid-a)")
	allocation := c.Status.Allocation
	update(func() {
		c.Status.ReservedFor, c.Status.Allocation = []resourceapi.ResourceClaimConsumerReference{{UID: "p"}}, nil
	})
	try("ResourceClaim a: not allocated")
	update(func() { c.Status.Allocation = allocation })
	try("DRA driver gadget.example.org is not registered")
	template := "t"
	p.Spec.ResourceClaims[0] = v1.PodResourceClaim{Name: "x", ResourceClaimTemplateName: &template}
	try(`pod "ns/p": ResourceClaim not created yet`)
	p.Status.ResourceClaimStatuses = []v1.PodResourceClaimStatus{{Name: "x", ResourceClaimName: &c.Name}}
	try("ResourceClaim ns/a was not created for Pod ns/p (Pod is not owner)")
	p.Status.ResourceClaimStatuses[0].ResourceClaimName = nil // none was needed
	b.prepare(p)
	p.Spec.ResourceClaims[0] = v1.PodResourceClaim{Name: "x"}
	try(`pod "ns/p", spec.resourceClaim "x": none of the supported fields are set`)
}

// A pod that waited for its driver is woken when the driver comes.
func TestDriverComes(t *testing.T) {
	b := newBench(t)
	p := b.pod("p", twoClaims)
	b.pod("other", "spec: {containers: [{name: main}]}")
	b.driver(dratest.Options{Name: driverName})
	if uid := <-b.woken; uid != p.UID {
		t.Errorf("woke %s", uid)
	}
}

func TestExtendedResource(t *testing.T) {
	b := newBench(t)
	d := b.driver(dratest.Options{Name: driverName})
	p := b.pod("p", `
spec: {containers: [{name: main, resources: {requests: {example.com/gadget: 1}}}, {name: side}]}
status: {extendedResourceClaimStatus: {resourceClaimName: a-b, requestMappings: [{containerName: main, resourceName: example.com/gadget, requestName: want-b}]}}`)
	b.claim("a-b", []string{driverName}, p)
	b.prepare(p)
	if got, err := b.node.Extra(t.Context(), p, &p.Spec.Containers[0]); err != nil || len(got.CDIDevices) != 1 || got.CDIDevices[0].Name != driverName+"/claim=uid-a-b-b" {
		t.Error(got, err)
	}
	if got, err := b.node.Extra(t.Context(), p, &p.Spec.Containers[1]); err != nil || got != nil {
		t.Error(got, err)
	}
	b.release(p)
	asked(t, d, "prepare a-b", "unprepare a-b")
}

// The kubelet is killed while a driver prepares, and again while it takes back.
func TestKilled(t *testing.T) {
	b := newBench(t)
	d := b.driver(dratest.Options{Name: driverName})
	p := b.pod("p", `spec: {resourceClaims: [{name: x, resourceClaimName: a}], containers: [{name: main, resources: {claims: [{name: x}]}}]}`)
	b.claim("a", []string{driverName}, p)
	hang := func(call string, do func(context.Context) error) {
		t.Helper()
		n := len(d.Asked())
		d.Hang(call)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- do(ctx) }()
		b.until("the driver is asked", func() bool { return len(d.Asked()) > n })
		b.restart() // a new kubelet on what the old one has written so far
		cancel()
		if <-done == nil {
			t.Errorf("%s succeeded although it was cut off", call)
		}
		d.Release(call)
		b.until("the driver has registered again", func() bool { return b.node.Drivers.Reachable(driverName) })
	}
	hang("prepare", func(ctx context.Context) error { return b.node.Prepare(ctx, p) })
	if !b.node.Holds(p.UID) {
		t.Fatal("what may be prepared is not known any more")
	}
	b.prepare(p)
	b.restart()
	if got, err := b.node.Devices(p, &p.Spec.Containers[0]); err != nil || len(got) != 1 {
		t.Errorf("after a restart the container has %q %v", got, err)
	}
	b.until("the driver has registered again", func() bool { return b.node.Drivers.Reachable(driverName) })
	node := b.node
	hang("unprepare", func(ctx context.Context) error { return node.Release(ctx, p.UID) })
	if err := b.node.Retain(t.Context(), only("other")); err != nil { // the pod is gone meanwhile
		t.Fatal(err)
	}
	asked(t, d, "prepare a", "prepare a", "unprepare a", "unprepare a")
	b.restart()
	if b.node.Holds(p.UID) {
		t.Error("still held")
	}
}

// TestRetainBesideASlowDriver: a pod that comes while a driver takes its time to take back a former pod's devices keeps what an earlier
// kubelet has prepared for it.
func TestRetainBesideASlowDriver(t *testing.T) {
	b := newBench(t)
	d := b.driver(dratest.Options{Name: driverName})
	for pod, claim := range map[string]string{"1-former": "a", "2-new": "b"} {
		p := b.pod(pod, `spec: {resourceClaims: [{name: x, resourceClaimName: `+claim+`}], containers: [{name: main}]}`)
		b.claim(claim, []string{driverName}, p)
		b.prepare(p)
	}
	asked := len(d.Asked())
	d.Hang("unprepare")
	var known atomic.Bool
	done := make(chan error, 1)
	go func() {
		done <- b.node.Retain(t.Context(), func(uid types.UID) bool { return known.Load() && uid == "2-new" })
	}()
	b.until("the driver is asked", func() bool { return len(d.Asked()) > asked })
	known.Store(true)
	d.Release("unprepare")
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := d.Asked()[asked:]; !slices.Equal(got, []string{"unprepare a"}) || !b.node.Holds("2-new") || b.node.Holds("1-former") {
		t.Errorf("asked %v", got)
	}
}

// Without an API server there are no claims, and a pod that wants one is told so.
func TestNoAPIServer(t *testing.T) {
	n, err := NewNode(NodeConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Prepare(t.Context(), &v1.Pod{}); err != nil {
		t.Error(err)
	}
	claim := "c"
	p := &v1.Pod{Spec: v1.PodSpec{ResourceClaims: []v1.PodResourceClaim{{Name: "c", ResourceClaimName: &claim}}}}
	if err := n.Prepare(t.Context(), p); err == nil || !strings.Contains(err.Error(), "without an API server") {
		t.Error(err)
	}
}

// A pod that comes while its claim is taken back waits, and has it prepared anew.
func TestBackAndForth(t *testing.T) {
	b := newBench(t)
	d := b.driver(dratest.Options{Name: driverName})
	const one = `spec: {resourceClaims: [{name: x, resourceClaimName: a}], containers: [{name: main}]}`
	p, q := b.pod("p", one), b.pod("q", one)
	b.claim("a", []string{driverName}, p, q)
	b.prepare(p)
	d.Hang("unprepare")
	done := make(chan error, 2)
	go func() { done <- b.node.Release(t.Context(), p.UID) }()
	b.until("the driver is asked", func() bool { return len(d.Asked()) == 2 })
	go func() { done <- b.node.Prepare(t.Context(), q) }()
	d.Release("unprepare")
	for range 2 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	asked(t, d, "prepare a", "unprepare a", "prepare a")
	if d.Prepared() != 1 || !b.node.Holds(q.UID) || b.node.Holds(p.UID) {
		t.Error("q has no device, or p has")
	}
}

func TestHealth(t *testing.T) {
	for _, old := range []bool{false, true} {
		b := newBench(t)
		d := b.driver(dratest.Options{Name: driverName, Healthy: true, Old: old})
		p := b.pod("p", twoClaims)
		b.claim("a-b", []string{driverName}, p)
		b.claim("c", []string{driverName}, p)
		b.prepare(p)
		report := func() string {
			st := v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "main"}, {Name: "all"}, {Name: "none"}}}
			b.node.Report(p, &st)
			var parts []string
			for _, c := range st.ContainerStatuses {
				for _, s := range c.AllocatedResourcesStatus {
					text := c.Name + " " + string(s.Name)
					for _, r := range s.Resources {
						text += fmt.Sprintf(" %s=%s", strings.TrimPrefix(string(r.ResourceID), driverName+"/claim=uid-"), r.Health)
						if r.Message != nil {
							text += "(" + *r.Message + ")"
						}
					}
					parts = append(parts, text)
				}
			}
			return strings.Join(parts, "; ")
		}
		const unknown = "main claim:x/want-b a-b-b=Unknown; all claim:x a-b-a=Unknown a-b-b=Unknown; all claim:z c-c=Unknown"
		if got := report(); got != unknown {
			t.Error(got)
		}
		for len(b.woken) > 0 {
			<-b.woken
		}
		d.Tell(&health.DeviceHealth{Device: &health.DeviceIdentifier{PoolName: "pool", DeviceName: "a"}, Health: health.HealthStatus_HEALTHY},
			&health.DeviceHealth{Device: &health.DeviceIdentifier{PoolName: "pool", DeviceName: "b"}, Health: health.HealthStatus_UNHEALTHY, Message: "hot"})
		if uid := <-b.woken; uid != p.UID {
			t.Errorf("woke %s", uid)
		}
		const told = "main claim:x/want-b a-b-b=Unhealthy(hot); all claim:x a-b-a=Healthy a-b-b=Unhealthy(hot); all claim:z c-c=Unknown"
		if got := report(); got != told {
			t.Error(got)
		}
		d.Stop() // nobody vouches for them any more
		b.until("unknown again", func() bool { return report() == unknown })
	}
}

// TestSlowDisk: who looks at what pods hold does not wait for the note of another pod's claims.
func TestSlowDisk(t *testing.T) {
	b := newBench(t)
	b.driver(dratest.Options{Name: driverName})
	p := b.pod("p", `spec: {resourceClaims: [{name: x, resourceClaimName: a}], containers: [{name: main}]}`)
	b.claim("a", []string{driverName}, p)
	release := wholetest.Hold(t, filepath.Join(b.dir, "dra_manager_state"))
	prepared := make(chan error)
	go func() { prepared <- b.node.Prepare(context.Background(), p) }()
	free := make(chan bool)
	go func() {
		for !b.node.Holds("p") {
			time.Sleep(time.Millisecond)
		}
		close(free)
	}()
	wholetest.Free(t, free, prepared)
	release()
	if err := <-prepared; err != nil {
		t.Error(err)
	}
}

// The note is upstream's, to the letter.
func TestNote(t *testing.T) {
	b := newBench(t)
	d := b.driver(dratest.Options{Name: driverName})
	p := b.pod("p", `spec: {resourceClaims: [{name: x, resourceClaimName: a}], containers: [{name: main}]}`)
	b.claim("a", []string{driverName}, p)
	b.prepare(p)
	raw, err := os.ReadFile(filepath.Join(b.dir, "dra_manager_state"))
	if err != nil {
		t.Fatal(err)
	}
	var e struct {
		Data     string
		Checksum uint32
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		t.Fatal(err)
	}
	const want = `{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","ClaimInfoStateList":[{"ClaimUID":"uid-a","ClaimName":"a","Namespace":"ns",` +
		`"PodUIDs":{"p":{}},"DriverState":{"gadget.example.org":{"Devices":[{"PoolName":"pool","DeviceName":"a","ShareID":null,"RequestNames":["want-a"],` +
		`"CDIDeviceIDs":["gadget.example.org/claim=uid-a-a"]}]}}}]}`
	if e.Data != want || e.Checksum != crc32.ChecksumIEEE([]byte(want)) {
		t.Errorf("got\n%s\nwant\n%s", e.Data, want)
	}
	if err := os.WriteFile(filepath.Join(b.dir, "dra_manager_state"), []byte(strings.Replace(string(raw), "uid-a", "uid-b", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	b.restart() // a torn note stops nobody
	b.until("the driver has registered again", func() bool { return b.node.Drivers.Reachable(driverName) })
	b.prepare(p)
	b.release(p)
	asked(t, d, "prepare a", "prepare a", "unprepare a")
}

// only tells of one pod that there is.
func only(uid types.UID) func(types.UID) bool { return func(u types.UID) bool { return u == uid } }
