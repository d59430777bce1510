package scheduler

import (
	"context"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"sigs.k8s.io/yaml"
)

const gadget = "gadget.example.org"

// slice publishes devices of a node.
func slice(node string, devices ...string) *resourceapi.ResourceSlice {
	s := &resourceapi.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node + "-" + strings.Join(devices, "-")}}
	s.Spec = resourceapi.ResourceSliceSpec{Driver: gadget, NodeName: &node, Pool: resourceapi.ResourcePool{Name: node, ResourceSliceCount: 1}}
	for _, d := range devices {
		size := resource.MustParse("1Gi")
		if strings.HasPrefix(d, "big") {
			size = resource.MustParse("8Gi")
		}
		s.Spec.Devices = append(s.Spec.Devices, resourceapi.Device{Name: d, Capacity: map[resourceapi.QualifiedName]resourceapi.DeviceCapacity{"memory": {Value: size}}})
	}
	return s
}

func class() *resourceapi.DeviceClass {
	resourceName := "example.com/gadget"
	c := &resourceapi.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gadgets"}}
	c.Spec.ExtendedResourceName = &resourceName
	c.Spec.Selectors = []resourceapi.DeviceSelector{{CEL: &resourceapi.CELDeviceSelector{Expression: `device.driver == "` + gadget + `"`}}}
	return c
}

func claim(t *testing.T, name, requests string) *resourceapi.ResourceClaim {
	t.Helper()
	c := &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name)}}
	if err := yaml.UnmarshalStrict([]byte("devices: {requests: ["+requests+"]}"), &c.Spec); err != nil {
		t.Fatal(err)
	}
	for i := range c.Spec.Devices.Requests { // as the API does
		r := &c.Spec.Devices.Requests[i]
		if r.Exactly != nil {
			r.Exactly.AllocationMode, r.Exactly.Count = resourceapi.DeviceAllocationModeExactCount, max(r.Exactly.Count, 1)
		}
		for j := range r.FirstAvailable {
			f := &r.FirstAvailable[j]
			f.AllocationMode, f.Count = resourceapi.DeviceAllocationModeExactCount, max(f.Count, 1)
		}
	}
	return c
}

func using(claims ...string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		for _, name := range claims {
			p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, v1.PodResourceClaim{Name: name, ResourceClaimName: &name})
		}
	}
}

// claims tells what claims have, as "name: devices for pods".
func (c *cluster) claims() string {
	list, err := c.client.ResourceV1().ResourceClaims("default").List(c.t.Context(), metav1.ListOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	var parts []string
	for _, cl := range list.Items {
		var devices, pods []string
		if a := cl.Status.Allocation; a != nil {
			for _, r := range a.Devices.Results {
				devices = append(devices, r.Request+"="+r.Pool+"/"+r.Device)
			}
		}
		for _, r := range cl.Status.ReservedFor {
			pods = append(pods, r.Name)
		}
		parts = append(parts, fmt.Sprintf("%s: %s for %s", cl.Name, strings.Join(devices, ","), strings.Join(pods, ",")))
	}
	return strings.Join(parts, "; ")
}

const anyGadget = "{name: any, exactly: {deviceClassName: gadgets}}"

func TestClaims(t *testing.T) {
	objects := []runtime.Object{node("a"), node("b"), class(), slice("a", "g1"), slice("b", "big1"), claim(t, "one", anyGadget),
		claim(t, "large", `{name: big, exactly: {deviceClassName: gadgets, selectors: [{cel: {expression: "device.capacity['`+gadget+`'].memory.compareTo(quantity('2Gi')) > 0"}}]}}`),
		claim(t, "choice", `{name: c, firstAvailable: [{name: best, deviceClassName: gadgets, count: 5}, {name: fine, deviceClassName: gadgets}]}`)}
	c := start(t, nil, objects...)
	c.create(pod("p", "0", using("large")))
	c.eventually("the one node with a large device", "p@b", c.where)
	c.create(pod("q", "0", using("one")))
	c.eventually("what is left", "p@b q@a", c.where)
	c.create(pod("shares", "0", using("one")))
	c.eventually("a claim is shared where it is", "p@b q@a shares@a", c.where)
	c.create(pod("late", "0", using("choice")))
	c.eventually("nothing is left", "False Unschedulable: 0/2 nodes are available: 2 cannot allocate all claims. preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling.",
		func() string { return c.condition("late") })
	const held = "choice:  for ; large: big=b/big1 for p; one: any=a/g1 for q,shares"
	c.eventually("claims tell", held, c.claims)
	if _, err := c.client.ResourceV1().ResourceSlices().Create(t.Context(), slice("b", "g2"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The pool of node b has two slices now; both must say so before any of it counts.
	for _, name := range []string{"b-big1", "b-g2"} {
		s, err := c.client.ResourceV1().ResourceSlices().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		s.Spec.Pool.ResourceSliceCount = 2
		if _, err := c.client.ResourceV1().ResourceSlices().Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("a device came", "late@b p@b q@a shares@a", c.where)
	c.eventually("claims tell", strings.Replace(held, "choice:  for ", "choice: c/fine=b/g2 for late", 1), c.claims)
}

// A claim gets its first alternative if some node has it. Whoever only looks at devices (administrative access) takes none away.
func TestAlternatives(t *testing.T) {
	c := start(t, nil, node("a"), node("b"), node("c"), class(), slice("a", "g1"), slice("b", "g1", "g2", "g3"), slice("c", "g1"),
		claim(t, "choice", `{name: c, firstAvailable: [{name: best, deviceClassName: gadgets, count: 3}, {name: fine, deviceClassName: gadgets}]}`),
		claim(t, "watch", `{name: w, exactly: {deviceClassName: gadgets, adminAccess: true}}`))
	c.create(pod("p", "0", using("choice")))
	c.eventually("the node with the first alternative", "p@b", c.where)
	c.create(pod("watcher", "0", using("watch"), func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{v1.LabelHostname: "b"} }))
	c.eventually("beside it", "p@b watcher@b", c.where)
	c.eventually("claims tell", "choice: c/best=b/g1,c/best=b/g2,c/best=b/g3 for p; watch: w=b/g1 for watcher", c.claims)
}

func TestClaimRefusals(t *testing.T) {
	template := "t"
	c := start(t, nil, node("a"), claim(t, "classless", anyGadget))
	c.create(pod("p", "0", using("none")), pod("q", "0", using("classless")), pod("r", "0", func(p *v1.Pod) {
		p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "x", ResourceClaimTemplateName: &template}}
	}))
	for name, want := range map[string]string{"p": `resourceclaim.resource.k8s.io "none" not found`, "q": "request any: device class gadgets does not exist",
		"r": `pod "default/r": ResourceClaim not created yet`} {
		c.eventually(name, "False Unschedulable: 0/1 nodes are available: "+want+". preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
			func() string { return c.condition(name) })
	}
	for _, obj := range []runtime.Object{class(), slice("a", "g1"), claim(t, "none", anyGadget)} {
		if err := c.client.Tracker().Add(obj); err != nil {
			t.Fatal(err)
		}
	}
	c.eventually("one of them has the device", "1", func() string { return fmt.Sprint(strings.Count(c.where(), "@a")) })
}

// A binding that fails gives the devices back.
func TestClaimUndone(t *testing.T) {
	refuse := func(pod, _ string) error {
		if pod == "p" {
			return fmt.Errorf("no")
		}
		return nil
	}
	c := start(t, refuse, node("a"), class(), slice("a", "g1"), claim(t, "one", anyGadget))
	c.create(pod("p", "0", using("one")))
	c.eventually("the claim is allocated and free", "one: any=a/g1 for ", c.claims)
	c.create(pod("q", "0", using("one")))
	c.eventually("another pod uses it", "p@ q@a", c.where)
}

// A claim that was allocated on another node than the one the pod has to run on is allocated anew.
func TestStuckClaim(t *testing.T) {
	stuck := claim(t, "one", anyGadget)
	stuck.Status.Allocation = &resourceapi.AllocationResult{NodeSelector: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{
		{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{"a"}}}}}}}
	stuck.Status.Allocation.Devices.Results = []resourceapi.DeviceRequestAllocationResult{{Request: "any", Driver: gadget, Pool: "a", Device: "g1"}}
	c := start(t, nil, node("a"), node("b"), class(), slice("a", "g1"), slice("b", "g2"), stuck)
	c.create(pod("p", "0", using("one"), func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{v1.LabelHostname: "b"} }))
	c.eventually("it is freed", "p@b", c.where)
	c.eventually("and allocated", "one: any=b/g2 for p", c.claims)
}

// An extended resource that a device class stands for is a claim of the scheduler's own.
func TestExtendedResource(t *testing.T) {
	c := start(t, nil, node("a"), class(), slice("a", "g1", "g2"))
	asks := func(n string) func(*v1.Pod) {
		return func(p *v1.Pod) {
			p.Spec.Containers[0].Resources.Requests["example.com/gadget"] = resource.MustParse(n)
			p.Spec.InitContainers = []v1.Container{{Name: "i", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{"example.com/gadget": resource.MustParse("1")}}}}
		}
	}
	c.create(pod("p", "0", asks("2")))
	c.eventually("bound", "p@a", c.where)
	p, err := c.client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	x := p.Status.ExtendedResourceClaimStatus
	if x == nil || len(x.RequestMappings) != 2 || x.RequestMappings[0] != (v1.ContainerExtendedResourceRequest{ContainerName: "c", ResourceName: "example.com/gadget", RequestName: "container-1-request-1"}) ||
		x.RequestMappings[1].ContainerName != "i" || x.RequestMappings[1].RequestName != "container-1-request-1" {
		t.Fatalf("%+v", x)
	}
	made, err := c.client.ResourceV1().ResourceClaims("default").Get(t.Context(), x.ResourceClaimName, metav1.GetOptions{})
	if err != nil || len(made.Status.Allocation.Devices.Results) != 2 || made.Spec.Devices.Requests[0].Exactly.Count != 2 || !metav1.IsControlledBy(made, p) {
		t.Errorf("%+v %v", made, err)
	}
	c.create(pod("q", "0", asks("1")))
	c.eventually("none is left", "False Unschedulable: 0/1 nodes are available: 1 cannot allocate all claims. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		func() string { return c.condition("q") })
}

// TestClaimsAsOf: the cache tells which version of the API it has, after a list and after each event.
func TestClaimsAsOf(t *testing.T) {
	client, events := fake.NewClientset(), watch.NewFake()
	client.PrependReactor("list", "resourceclaims", func(k8stesting.Action) (bool, runtime.Object, error) {
		return true, &resourceapi.ResourceClaimList{ListMeta: metav1.ListMeta{ResourceVersion: "7"}}, nil
	})
	client.PrependWatchReactor("resourceclaims", func(action k8stesting.Action) (bool, watch.Interface, error) {
		if o := action.(k8stesting.WatchActionImpl).ListOptions; o.SendInitialEvents != nil && *o.SendInitialEvents {
			return true, nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil) // no streamed lists
		}
		return true, events, nil
	})
	f := informers.NewSharedInformerFactory(client, 0)
	stores := newResourceStores(f)
	ctx, cancel := context.WithCancel(t.Context())
	f.StartWithContext(ctx)
	defer f.Shutdown()
	defer cancel()
	c := &cluster{t: t}
	c.eventually("the version of the list", "7", stores.ClaimsAsOf)
	made := claim(t, "one", anyGadget)
	made.ResourceVersion = "9"
	events.Add(made)
	c.eventually("the version of the event", "9 [default/one]", func() string {
		var names []string
		for _, c := range stores.Claims() {
			names = append(names, inNamespace(c))
		}
		return fmt.Sprint(stores.ClaimsAsOf(), " ", names)
	})
	gone := made.DeepCopy()
	gone.ResourceVersion = "12"
	events.Delete(gone)
	c.eventually("the version of the deletion", "12 0", func() string { return fmt.Sprint(stores.ClaimsAsOf(), " ", len(stores.Claims())) })
}

func inNamespace(c *resourceapi.ResourceClaim) string { return c.Namespace + "/" + c.Name }
