package devices

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/skiff-node/skiff/kubelet/assign/devices/checkpoint"
	"github.com/skiff-node/skiff/kubelet/assign/devices/devicetest"
	"github.com/skiff-node/skiff/kubelet/plugin"
	"github.com/skiff-node/skiff/kubelet/whole/wholetest"
)

const gauge = "example.org/gauge"

// world is a kubelet's manager, and the directory it shares with plugins.
type world struct {
	*testing.T
	dir, pods string
	*Manager
	sick chan []types.UID
	stop func()
}

func newWorld(t *testing.T) *world {
	dir, err := os.MkdirTemp("", "dev") // short: paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	w := &world{T: t, dir: dir, pods: filepath.Join(dir, "pods"), sick: make(chan []types.UID, 100)}
	t.Cleanup(func() { w.stop(); os.RemoveAll(dir) })
	w.start()
	return w
}

// start makes a new manager on what the one before has left, as a new kubelet does.
func (w *world) start() {
	if w.stop != nil {
		w.stop()
	}
	m, err := New(Config{Dir: w.dir, PodsDir: w.pods, Nodes: []int{0, 1}, Dial: plugin.Dial, Changed: func() {},
		Sick: func(uids []types.UID) { w.sick <- uids }})
	if err != nil {
		w.Fatal(err)
	}
	w.Manager = m
	socket := filepath.Join(w.dir, "kubelet.sock")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		w.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, kept := make(chan error, 1), make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	go func() { kept <- m.Keep(ctx) }()
	for _, err := os.Stat(socket); err != nil && len(done) == 0; _, err = os.Stat(socket) {
		time.Sleep(time.Millisecond)
	}
	w.stop = func() {
		cancel()
		if err := errors.Join(<-done, <-kept); err != nil {
			w.Error(err)
		}
		w.stop = func() {}
	}
}

func (w *world) plugin(o devicetest.Options) *devicetest.Plugin {
	w.Helper()
	if o.Resource == "" {
		o.Resource = gauge
	}
	if o.Socket == "" {
		o.Socket = "gauge.sock"
	}
	o.Dir = w.dir
	p, err := devicetest.Start(o)
	if err != nil {
		w.Fatal(err)
	}
	w.Cleanup(p.Stop)
	w.register(p)
	return p
}

func (w *world) register(p *devicetest.Plugin) {
	w.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := p.Register(ctx); err != nil {
		w.Fatal(err)
	}
}

// offers waits until the node has so much of the gauge: "3 of 4".
func (w *world) offers(want string) {
	w.Helper()
	var got string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		capacity, allocatable := w.Capacity()
		all, well := capacity[gauge], allocatable[gauge]
		if got = well.String() + " of " + all.String(); got == want {
			return
		}
	}
	w.Fatalf("offers %s, want %s", got, want)
}

func (w *world) allocate(p *v1.Pod) error {
	for i := range p.Spec.InitContainers {
		if err := w.Allocate(p, &p.Spec.InitContainers[i], 0); err != nil {
			return err
		}
	}
	for i := range p.Spec.Containers {
		if err := w.Allocate(p, &p.Spec.Containers[i], 0); err != nil {
			return err
		}
	}
	return nil
}

// holds lists what a container has: "a b@1".
func (w *world) holds(uid, container string) string {
	p := &v1.Pod{}
	p.UID = types.UID(uid)
	out := &podresources.ContainerResources{}
	w.Container(p, container, out)
	var list []string
	for _, d := range out.Devices {
		s := d.DeviceIds[0]
		if d.Topology != nil {
			s += fmt.Sprint("@", d.Topology.Nodes[0].ID)
		}
		list = append(list, s)
	}
	return strings.Join(list, " ")
}

func container(name string, count int) v1.Container {
	q := v1.ResourceList{gauge: *resource.NewQuantity(int64(count), resource.DecimalSI)}
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Limits: q, Requests: q}}
}

func testPod(uid string, containers ...v1.Container) *v1.Pod {
	p := &v1.Pod{}
	p.UID, p.Spec.Containers = types.UID(uid), containers
	return p
}

func two() []*api.Device {
	return []*api.Device{devicetest.Device("a", true), devicetest.Device("b", true, 1)}
}

func TestLife(t *testing.T) {
	w := newWorld(t)
	if !w.Anew() {
		t.Error("no plugin has been here, and there is a file")
	}
	p := w.plugin(devicetest.Options{Devices: two(), PreStart: true, Prefer: true, Answer: func(ids []string) *api.ContainerAllocateResponse {
		return &api.ContainerAllocateResponse{Envs: map[string]string{"GAUGES": strings.Join(ids, ",")}, Annotations: map[string]string{"k": "v"},
			Mounts:     []*api.Mount{{HostPath: "/h", ContainerPath: "/c", ReadOnly: true}},
			Devices:    []*api.DeviceSpec{{HostPath: "/dev/x", ContainerPath: "/dev/y", Permissions: "r"}},
			CdiDevices: []*api.CDIDevice{{Name: "example.org/gauge=" + ids[0]}}}
	}})
	w.offers("2 of 2")
	first := testPod("p", container("c", 1), v1.Container{Name: "plain"})
	if err := w.allocate(first); err != nil {
		t.Fatal(err)
	}
	if w.Anew() {
		t.Error("there is no file")
	}
	if got := w.holds("p", "c") + "|" + w.holds("p", "plain"); got != "b@1|" {
		t.Errorf("has %s", got)
	}
	extra, err := w.Extra(t.Context(), first, &first.Spec.Containers[0])
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(extra.Env, extra.Mounts[0].ContainerPath, extra.Mounts[0].Readonly, extra.Devices[0].HostPath, extra.Devices[0].Permissions,
		extra.CDIDevices[0].Name, extra.Annotations); got != "[{GAUGES b}]/ctrue/dev/xrexample.org/gauge=bmap[k:v]" {
		t.Error(got)
	}
	if got := strings.Join(p.Calls(), "; "); got != "prefer 1 of a,b; allocate b; pre-start b" {
		t.Error(got)
	}
	if extra, err := w.Extra(t.Context(), first, &first.Spec.Containers[1]); err != nil || len(extra.Env) != 0 {
		t.Errorf("a container without devices: %v %v", extra, err)
	}
	if err := w.allocate(testPod("greedy", container("c", 2))); err == nil || err.Error() != "requested number of devices unavailable for example.org/gauge. Requested: 2, Available: 1" {
		t.Error(err)
	}
	if err := w.allocate(first); err != nil || len(p.Calls()) != 0 {
		t.Errorf("given twice: %v", err)
	}
	p.Fail(errors.New("broken"))
	if err := w.allocate(testPod("unlucky", container("c", 1))); err == nil || !strings.Contains(err.Error(), "broken") || w.holds("unlucky", "c") != "" {
		t.Error(err)
	}
	if _, err := w.Extra(t.Context(), first, &first.Spec.Containers[0]); err == nil || !strings.HasPrefix(err.Error(), "device plugin PreStartContainer rpc failed with err: ") {
		t.Error(err)
	}
	p.Fail(nil)
	w.Release("p")
	if err := w.allocate(testPod("next", container("c", 2))); err != nil {
		t.Errorf("after the pod has gone: %v", err)
	}
	w.Release("next")
	if err := w.allocate(testPod("third", container("c", 2))); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
}

func TestInitContainers(t *testing.T) {
	w := newWorld(t)
	w.plugin(devicetest.Options{Devices: two()})
	w.offers("2 of 2")
	always := v1.ContainerRestartPolicyAlways
	p := testPod("p", container("main", 1))
	side := container("side", 1)
	side.RestartPolicy = &always
	p.Spec.InitContainers = []v1.Container{container("init", 2), side}
	if err := w.allocate(p); err != nil {
		t.Fatal(err)
	}
	if got := w.holds("p", "init") + "|" + w.holds("p", "side") + "|" + w.holds("p", "main"); got != "a b@1|a|b@1" {
		t.Error(got)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	p := w.plugin(devicetest.Options{Devices: two()})
	w.offers("2 of 2")
	pod := testPod("p", container("c", 1))
	if err := w.allocate(pod); err != nil {
		t.Fatal(err)
	}
	health := func() string { return fmt.Sprint(w.Health(pod)["c"]) }
	if got := health(); got != "[{example.org/gauge [{a Healthy <nil>}]}]" {
		t.Error(got)
	}
	p.Set(devicetest.Device("a", false), devicetest.Device("b", true, 1))
	if uids := <-w.sick; len(uids) != 1 || uids[0] != "p" {
		t.Errorf("told %v", uids)
	}
	w.offers("1 of 2")
	if got := health(); got != "[{example.org/gauge [{a Unhealthy <nil>}]}]" {
		t.Error(got)
	}
	out := &podresources.AllocatableResourcesResponse{}
	if w.Allocatable(out); len(out.Devices) != 1 || out.Devices[0].DeviceIds[0] != "b" {
		t.Errorf("%v", out)
	}
	if err := w.allocate(pod); err == nil || err.Error() != "previously allocated devices are no longer healthy; cannot allocate unhealthy devices example.org/gauge" {
		t.Error(err)
	}
	p.Set(devicetest.Device("a", false), devicetest.Device("b", false))
	w.offers("0 of 2")
	if err := w.allocate(testPod("q", container("c", 1))); err == nil || err.Error() != "no healthy devices present; cannot allocate unhealthy devices example.org/gauge" {
		t.Error(err)
	}
	list := v1.ResourceList{}
	if w.Admissible(list); list.Name(gauge, resource.DecimalSI).Value() != 1 {
		t.Errorf("what is in use does not count: %v", list)
	}
}

// TestNothingNew: what a plugin says again is no news, and what it says first is, even if it has nothing.
func TestNothingNew(t *testing.T) {
	news := 0
	m, err := New(Config{Dir: t.TempDir(), PodsDir: t.TempDir(), Nodes: []int{0, 1}, Changed: func() { news++ }, Sick: func([]types.UID) {}})
	if err != nil {
		t.Fatal(err)
	}
	e := &endpoint{resource: gauge}
	(*hub)(m).join(e)
	for _, step := range []struct {
		what string
		told []*api.Device
		news bool
	}{
		{"nothing", nil, true},
		{"nothing again", nil, false},
		{"two", two(), true},
		{"two again", two(), false},
		{"on another node", []*api.Device{devicetest.Device("a", true), devicetest.Device("b", true, 0)}, true},
		{"ill", []*api.Device{devicetest.Device("a", false), devicetest.Device("b", true, 0)}, true},
		{"ill again", []*api.Device{devicetest.Device("a", false), devicetest.Device("b", true, 0)}, false},
		{"one less", []*api.Device{devicetest.Device("a", false)}, true},
	} {
		before := news
		(*hub)(m).told(e, step.told)
		outdated := len(m.stale) == 1
		if outdated {
			<-m.stale
		}
		if outdated != step.news || (news != before) != step.news {
			t.Errorf("%s: to be noted %v, told on %v", step.what, outdated, news != before)
		}
	}
}

// TestSlowDisk: nobody but who has to waits for the disk: the status of a pod can be told, and what another had be taken back, while the
// devices of a third are being noted.
func TestSlowDisk(t *testing.T) {
	w := newWorld(t)
	w.plugin(devicetest.Options{Devices: two()})
	w.offers("2 of 2")
	if err := w.allocate(testPod("p", container("c", 1))); err != nil {
		t.Fatal(err)
	}
	if err := w.save(); err != nil { // nothing is left to be written
		t.Fatal(err)
	}
	release := wholetest.Hold(t, filepath.Join(w.dir, checkpoint.FileName))
	given := make(chan error)
	go func() { given <- w.allocate(testPod("q", container("c", 1))) }()
	free := make(chan bool)
	go func() {
		for w.holds("q", "c") == "" {
			time.Sleep(time.Millisecond)
		}
		w.Health(testPod("p"))
		w.Release("p")
		close(free)
	}()
	wholetest.Free(t, free, given)
	release()
	if err := <-given; err != nil {
		t.Error(err)
	}
}

// TestPluginReplaced: a new plugin on another socket takes over before the old one goes; one on the same socket at once.
func TestPluginReplaced(t *testing.T) {
	w := newWorld(t)
	old := w.plugin(devicetest.Options{Devices: two()})
	w.offers("2 of 2")
	next := w.plugin(devicetest.Options{Socket: "other.sock", Devices: append(two(), devicetest.Device("c", true))})
	w.offers("3 of 3")
	if err := w.allocate(testPod("p", container("c", 1))); err != nil || len(next.Calls()) != 1 || len(old.Calls()) != 0 {
		t.Error("the old one was asked", err)
	}
	next.Stop()
	w.offers("2 of 2")
	w.register(old)
	w.offers("2 of 2")
	old.Stop()
	w.offers("0 of 2")
	if got := fmt.Sprint(w.Health(testPod("p"))["c"]); got != "[{example.org/gauge [{a Unknown <nil>}]}]" {
		t.Error(got)
	}
	back := w.plugin(devicetest.Options{Devices: two()})
	w.offers("2 of 2")
	if back.Stop(); w.holds("p", "c") != "a" {
		t.Error(w.holds("p", "c"))
	}
	w.mu.Lock()
	w.table.resources[gauge].plugins, w.table.resources[gauge].gone = nil, time.Now().Add(-gracePeriod-time.Second)
	w.mu.Unlock()
	if w.offers("0 of 0"); len(w.table.registered()) != 0 {
		t.Error("a resource is kept without a plugin")
	}
}

// TestKubeletRestart: what was given stays given; how much the node has is known when the plugin has registered again.
func TestKubeletRestart(t *testing.T) {
	w := newWorld(t)
	p := w.plugin(devicetest.Options{Devices: two(), Answer: func(ids []string) *api.ContainerAllocateResponse {
		return &api.ContainerAllocateResponse{Envs: map[string]string{"GAUGES": strings.Join(ids, ",")}}
	}})
	w.offers("2 of 2")
	pod := testPod("p", container("c", 1))
	if err := w.allocate(pod); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.offers("0 of 0")
	if _, err := os.Stat(filepath.Join(w.dir, "gauge.sock")); !os.IsNotExist(err) {
		t.Errorf("the plugin's socket tells it to register again by going: %v", err)
	}
	if err := w.allocate(testPod("early", container("c", 1))); err == nil || !strings.HasPrefix(err.Error(), "no healthy devices present") {
		t.Error(err)
	}
	if extra, err := w.Extra(t.Context(), pod, &pod.Spec.Containers[0]); err != nil || fmt.Sprint(extra.Env) != "[{GAUGES a}]" {
		t.Errorf("a container that starts again: %v %v", extra, err)
	}
	p.Stop()
	w.plugin(devicetest.Options{Devices: two()})
	w.offers("2 of 2")
	if err := w.allocate(testPod("q", container("c", 2))); err == nil || !strings.HasSuffix(err.Error(), "Requested: 2, Available: 1") {
		t.Error(err)
	}
	if err := os.RemoveAll(filepath.Join(w.pods, "p")); err != nil {
		t.Fatal(err)
	}
	w.start()
	if w.holds("p", "c") != "" {
		t.Error("a pod whose directory was removed while no kubelet ran has devices")
	}
	w.stop()
	if err := os.WriteFile(filepath.Join(w.dir, checkpoint.FileName), []byte("torn"), 0o600); err != nil {
		t.Fatal(err)
	}
	w.start()
	if w.holds("p", "c") != "" {
		t.Error("read from a torn file")
	}
}

func TestRegistration(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r := &registrar{m: w.Manager, ctx: ctx}
	if _, err := r.Register(ctx, &api.RegisterRequest{Version: "v1", ResourceName: gauge}); err == nil || !strings.Contains(err.Error(), `requested API version "v1" is not supported`) {
		t.Error(err)
	}
	if _, err := r.Register(ctx, &api.RegisterRequest{Version: api.Version, ResourceName: "gauge"}); err == nil || err.Error() != `the ResourceName "gauge" is invalid` {
		t.Error(err)
	}
	p, err := devicetest.Start(devicetest.Options{Resource: gauge, Dir: w.dir, Socket: "g.sock", Devices: two()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	socket := filepath.Join(w.dir, "g.sock")
	if err := w.Register(ctx, gauge, socket, []string{"v9"}); err == nil {
		t.Error("a version of the future")
	}
	if err := w.Register(ctx, gauge, socket, []string{api.Version}); err != nil {
		t.Error(err)
	}
	w.offers("2 of 2")
	w.Unregister(gauge, "another")
	w.offers("2 of 2")
	w.Unregister(gauge, socket)
	w.offers("0 of 2")
}

func TestTopologyHints(t *testing.T) {
	w := newWorld(t)
	w.plugin(devicetest.Options{Devices: []*api.Device{devicetest.Device("a", true, 0), devicetest.Device("b", true, 1)}})
	w.offers("2 of 2")
	p := testPod("p", container("c", 1), container("d", 1))
	if got := fmt.Sprint(w.Hints(p, &p.Spec.Containers[0])[gauge], w.Hints(p, nil)[gauge]); got != "[{0 true} {1 true} {0-1 false}] [{0-1 true}]" {
		t.Error(got)
	}
	if err := w.Allocate(p, &p.Spec.Containers[0], 1<<1); err != nil || w.holds("p", "c") != "b@1" {
		t.Error(err, w.holds("p", "c"))
	}
	if got := fmt.Sprint(w.Hints(p, &p.Spec.Containers[0])[gauge], w.Hints(p, &p.Spec.Containers[1])[gauge]); got != "[{1 true} {0-1 false}] [{0 true} {0-1 false}]" {
		t.Error(got)
	}
	q := testPod("q", container("c", 2))
	if got := w.Hints(q, &q.Spec.Containers[0])[gauge]; got == nil || len(got) != 0 {
		t.Errorf("what cannot be had: %v", got)
	}
}

// TestPluginsRegistry: a plugin that is found by its socket in plugins_registry is as good, and goes with that socket.
func TestPluginsRegistry(t *testing.T) {
	w := newWorld(t)
	registry := filepath.Join(w.dir, "reg")
	watcher, err := plugin.New(plugin.Config{Dir: registry, Handlers: map[string]plugin.Handler{"DevicePlugin": w.Manager}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- watcher.Run(ctx) }()
	defer func() { cancel(); <-done }()
	p, err := devicetest.Start(devicetest.Options{Resource: gauge, Dir: w.dir, Socket: "g.sock", Devices: two()})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	if err := os.MkdirAll(registry, 0o700); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(registry, "gauge-reg.sock")
	if err := p.Announce(socket); err != nil {
		t.Fatal(err)
	}
	w.offers("2 of 2")
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	w.offers("0 of 2")
}
