//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	resourceapi "k8s.io/api/resource/v1"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/skiff-node/skiff/kubelet/dra/dratest"
	"github.com/skiff-node/skiff/test/harness"
)

const gadgetDriver = "gadget.example.org"

// gadgetState is what the driver answers to each line it reads: "hang <call>", "release <call>" or "sick <device>".
type gadgetState struct {
	Asked    []string
	Prepared int
}

// runGadgets is a DRA driver of the node. It reads from the API which devices a claim has, as any driver does.
func runGadgets(in io.Reader, out io.Writer) error {
	const root = "/var/lib/skiff/kubelet"
	d, err := dratest.Start(dratest.Options{Name: gadgetDriver, Dir: root + "/plugins/" + gadgetDriver, Registry: root + "/plugins_registry",
		CDIDir: "/run/cdi", Healthy: true, Allocated: allocated})
	if err != nil {
		return err
	}
	defer d.Stop()
	pool := ""
	for lines := bufio.NewScanner(in); lines.Scan(); {
		verb, what, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "hang":
			d.Hang(what)
		case "release":
			d.Release(what)
		case "sick":
			what, pool, _ = strings.Cut(what, "@")
			d.Tell(&health.DeviceHealth{Device: &health.DeviceIdentifier{PoolName: pool, DeviceName: what}, Health: health.HealthStatus_UNHEALTHY,
				Message: "too hot", HealthCheckTimeoutSeconds: 600})
		}
		if err := json.NewEncoder(out).Encode(gadgetState{d.Asked(), d.Prepared()}); err != nil {
			return err
		}
	}
	return nil
}

func allocated(ctx context.Context, c *dra.Claim) ([]*dra.Device, error) {
	raw, err := exec.CommandContext(ctx, "skiff", "kubectl", "get", "resourceclaim", "-n", c.Namespace, c.Name, "-o", "json").Output()
	if err != nil {
		return nil, fmt.Errorf("read claim %s: %w", c.Name, err)
	}
	var obj resourceapi.ResourceClaim
	if err := json.Unmarshal(raw, &obj); err != nil {
		return nil, err
	}
	if string(obj.UID) != c.Uid || obj.Status.Allocation == nil {
		return nil, fmt.Errorf("claim %s is another one or not allocated", c.Name)
	}
	var list []*dra.Device
	for _, r := range obj.Status.Allocation.Devices.Results {
		if r.Driver == gadgetDriver {
			list = append(list, &dra.Device{PoolName: r.Pool, DeviceName: r.Device, RequestNames: []string{r.Request}})
		}
	}
	return list, nil
}

// gadgets are a class, which also stands for an extended resource, a template and a claim to share.
const gadgets = `
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: gadgets}
spec:
  extendedResourceName: example.com/gadget
  selectors: [{cel: {expression: device.driver == "gadget.example.org"}}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: pair}
spec: {spec: {devices: {requests: [{name: left, exactly: {deviceClassName: gadgets}}, {name: right, firstAvailable: [{name: huge, deviceClassName: gadgets, count: 9}, {name: some, deviceClassName: gadgets}]}]}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one}
spec: {spec: {devices: {requests: [{name: it, exactly: {deviceClassName: gadgets}}]}}}
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: shared}
spec: {devices: {requests: [{name: it, exactly: {deviceClassName: gadgets}}]}}
`

// gadgetSlice is what the driver publishes for a node.
func gadgetSlice(node string) string {
	devices := ""
	for i := range 8 {
		devices += fmt.Sprintf("{name: gadget-%d}, ", i)
	}
	return fmt.Sprintf(`
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: gadgets-of-%[1]s}
spec: {driver: gadget.example.org, nodeName: %[1]s, pool: {name: %[1]s, generation: 1, resourceSliceCount: 1}, devices: [%[2]s]}
`, node, devices)
}

// gadgetPod has a container that lists what it has.
func gadgetPod(name, claims, container string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  resourceClaims: [%s]
  containers:
  - name: shell
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    %s
`, name, claims, container)
}

// sailor is a host with a node, devices and a driver.
type sailor struct {
	t    *testing.T
	h    *harness.Host
	node string
	tell func(string) gadgetState
}

// asked waits until the driver was asked so many times for something that begins so, and checks that it was not more often.
func (s *sailor) asked(prefix string, times int) {
	s.t.Helper()
	harness.Eventually(s.t, 60*time.Second, fmt.Sprintf("the driver was asked %d times: %s", times, prefix), func() (bool, string) {
		st := s.tell("")
		n := 0
		for _, a := range st.Asked {
			if strings.HasPrefix(a, prefix) {
				n++
			}
		}
		return n == times, strings.Join(st.Asked, ", ")
	})
}

// devices lists the variables and device files that a container has.
func (s *sailor) devices(pod string) (env, files []string) {
	s.t.Helper()
	out := s.h.Kubectl("exec", pod, "--", "sh", "-c", "env | grep ^DEVICE_; for f in /dev/gadget-*; do test -c $f && echo $f; done; true")
	for _, line := range strings.Fields(out) {
		if strings.HasPrefix(line, "DEVICE_") {
			env = append(env, line)
		} else {
			files = append(files, line)
		}
	}
	return env, files
}

func (s *sailor) ready(pods ...string) {
	s.t.Helper()
	for _, p := range pods {
		if _, err := s.h.Skiff("kubectl", "wait", "--for=condition=Ready", "pod/"+p, "--timeout=90s"); err != nil {
			s.t.Fatalf("%s is not ready:\n%s\n%s", p, s.h.Kubectl("describe", "pod", p), s.h.Kubectl("get", "resourceclaims", "-o", "yaml"))
		}
	}
}

// crash kills the node's daemon. The next kubelet deletes what no driver stands for yet, which has to be published again.
func (s *sailor) crash() {
	s.t.Helper()
	before := s.slice()
	restart(s.t, s.h)
	harness.Eventually(s.t, 60*time.Second, "the devices are published anew", func() (bool, string) {
		now := s.slice()
		return now != "" && now != before, now
	})
}

// slice is the uid of what is published; empty when nothing is, or nobody answers.
func (s *sailor) slice() string {
	out, err := s.h.Skiff("kubectl", "get", "resourceslices", "-o", "jsonpath={.items[*].metadata.uid}")
	if err != nil {
		return ""
	}
	return out
}

// publish keeps the devices published until it is stopped, as drivers do.
func (s *sailor) publish() (stop func()) {
	file := filepath.Join(s.h.Dir, "slice.yaml")
	if err := os.WriteFile(file, []byte(gadgetSlice(s.node)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	quit, done := make(chan struct{}), make(chan struct{})
	stop = sync.OnceFunc(func() { close(quit); <-done })
	s.t.Cleanup(stop)
	go func() {
		defer close(done)
		for {
			if s.slice() == "" {
				_, _ = s.h.Skiff("kubectl", "apply", "-f", file) // or the next time
			}
			select {
			case <-quit:
				return
			case <-time.After(300 * time.Millisecond):
			}
		}
	}()
	return stop
}

// TestDRA has pods with devices of a driver that appears after the first of them, and kills node and driver at the worst moments.
func TestDRA(t *testing.T) {
	t.Parallel() // most of it is waiting
	h := harness.NewHost(t)
	h.Up()
	s := &sailor{t: t, h: h, node: strings.TrimSpace(h.Kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"))}
	manifest(t, h, gadgets)
	withdraw := s.publish()
	manifest(t, h, gadgetPod("solo", "{name: p, resourceClaimTemplateName: pair}", "resources: {claims: [{name: p, request: right}]}"))
	harness.Eventually(t, 60*time.Second, "an event names the driver that is missing", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "events", "--field-selector", "reason=FailedPrepareDynamicResources", "-o", "jsonpath={.items[*].message}")
		return err == nil && strings.Contains(out, "Failed to prepare dynamic resources: prepare dynamic resources: DRA driver gadget.example.org is not registered"), out
	})
	var stop func()
	s.tell, stop = inside[gadgetState](t, h, "dra")
	s.ready("solo")
	if env, files := s.devices("solo"); len(env) != 1 || len(files) != 1 || !strings.Contains(env[0], "=solo-p-") {
		t.Errorf("a container that asks for one request of two has %q %q", env, files)
	}
	t.Run("share", s.share)
	t.Run("extended resource", s.extended)
	t.Run("health", s.health)
	t.Run("killed", s.killed)
	t.Run("pages", s.pages)

	stop()
	s.tell, stop = inside[gadgetState](t, h, "dra") // another instance; what the first one prepared is still there
	manifest(t, h, gadgetPod("after", "{name: p, resourceClaimTemplateName: one}", "resources: {claims: [{name: p}]}"))
	s.ready("after")
	h.Kubectl("delete", "pod", "after", "solo", "--timeout=60s")
	if st := s.tell(""); st.Prepared != 0 || !slices.ContainsFunc(st.Asked, func(a string) bool { return strings.HasPrefix(a, "unprepare solo-p-") }) {
		t.Errorf("all pods are gone, and the driver: %+v", st)
	}
	expect(t, h, "shared", "get", "resourceclaims", "-o", "jsonpath={.items[*].metadata.name}")
	withdraw()
	stop()
	expect(t, h, "", "get", "resourceslices", "-o", "name") // half a minute later
}

// share has two pods use one claim, which is taken back after the second.
func (s *sailor) share(t *testing.T) {
	for _, name := range []string{"bow", "stern"} {
		manifest(t, s.h, gadgetPod(name, "{name: s, resourceClaimName: shared}", "resources: {claims: [{name: s}]}"))
	}
	s.ready("bow", "stern")
	env, files := s.devices("bow")
	if other, _ := s.devices("stern"); len(env) != 1 || len(files) != 1 || !strings.HasSuffix(env[0], "=shared") || !slices.Equal(env, other) {
		t.Errorf("the pods that share have %q, %q and %q", env, files, other)
	}
	s.h.Kubectl("delete", "pod", "bow", "--timeout=60s")
	s.asked("unprepare shared", 0)
	expect(t, s.h, "stern", "get", "resourceclaim", "shared", "-o", "jsonpath={.status.reservedFor[*].name}")
	s.crash()
	s.ready("stern")
	s.h.Kubectl("delete", "pod", "stern", "--timeout=60s")
	s.asked("unprepare shared", 1)
	s.asked("prepare shared", 1)
	expect(t, s.h, "", "get", "resourceclaim", "shared", "-o", "jsonpath={.status.reservedFor[*].name}{.status.allocation}")
}

func (s *sailor) extended(t *testing.T) {
	manifest(t, s.h, gadgetPod("plain", "", "resources: {limits: {example.com/gadget: 2}}"))
	s.ready("plain")
	if env, files := s.devices("plain"); len(env) != 2 || len(files) != 2 || !strings.Contains(env[0], "=plain-extended-resources-") {
		t.Errorf("a container with an extended resource has %q %q", env, files)
	}
	s.h.Kubectl("delete", "pod", "plain", "--timeout=60s")
	s.asked("unprepare plain-extended-resources-", 1)
}

func (s *sailor) health(t *testing.T) {
	manifest(t, s.h, gadgetPod("patient", "{name: p, resourceClaimTemplateName: one}", "resources: {claims: [{name: p}]}"))
	s.ready("patient")
	const status = "jsonpath={.status.containerStatuses[0].allocatedResourcesStatus[*].name} {.status.containerStatuses[0].allocatedResourcesStatus[*].resources[*].health}" +
		"{.status.containerStatuses[0].allocatedResourcesStatus[*].resources[*].message}"
	expect(t, s.h, "claim:p Unknown", "get", "pod", "patient", "-o", status)
	_, files := s.devices("patient")
	s.tell("sick " + strings.TrimPrefix(files[0], "/dev/") + "@" + s.node)
	expect(t, s.h, "claim:p Unhealthytoo hot", "get", "pod", "patient", "-o", status)
	s.h.Kubectl("delete", "pod", "patient", "--timeout=60s")
}

// killed kills the node while the driver prepares, and while it takes back.
func (s *sailor) killed(t *testing.T) {
	s.tell("hang prepare")
	manifest(t, s.h, gadgetPod("slow", "{name: p, resourceClaimTemplateName: one}", "resources: {claims: [{name: p}]}"))
	s.asked("prepare slow-p-", 1)
	s.crash()
	s.tell("release prepare")
	s.ready("slow")
	s.asked("prepare slow-p-", 2)
	if env, files := s.devices("slow"); len(env) != 1 || len(files) != 1 {
		t.Errorf("it has %q %q", env, files)
	}
	s.tell("hang unprepare")
	s.h.Kubectl("delete", "pod", "slow", "--wait=false")
	s.asked("unprepare slow-p-", 1)
	s.crash()
	if out := s.h.Kubectl("get", "pod", "slow", "-o", "jsonpath={.status.phase}"); out == "Succeeded" || out == "Failed" {
		t.Errorf("the pod is told to be %s before its device was taken back", out)
	}
	s.tell("release unprepare")
	s.h.Kubectl("wait", "--for=delete", "pod/slow", "--timeout=90s")
	s.asked("unprepare slow-p-", 2)
	s.ready("solo")
}

// pages looks at what is counted.
func (s *sailor) pages(t *testing.T) {
	out := s.h.Kubectl("get", "--raw", "/api/v1/nodes/"+s.node+"/proxy/metrics")
	for _, want := range []string{`dra_operations_duration_seconds_count{operation_name="UnprepareResources",is_error="false"}`,
		`dra_grpc_operations_duration_seconds_count{driver_name="gadget.example.org",method_name="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodeUnprepareResources",grpc_status_code="OK"}`,
		`dra_resource_claims_in_use{driver_name="<any>"}`} {
		if !strings.Contains(out, want) {
			t.Errorf("no %s in the kubelet's metrics", want)
		}
	}
}

// TestDRAWhileAway removes a pod by force while no kubelet runs: the next one ends its containers and takes its device back,
// and touches no other. The pod-resources API tells who has what.
func TestDRAWhileAway(t *testing.T) {
	h := harness.NewHost(t)
	c := &chaos{T: t, h: h}
	c.node()
	forLong := func(int) time.Duration { return time.Hour }
	kill := c.kubelet(forLong)
	defer kill()
	c.ready()
	s := &sailor{t: t, h: h, node: h.Name}
	manifest(t, h, gadgets)
	s.publish()
	s.tell, _ = inside[gadgetState](t, h, "dra")
	for _, name := range []string{"lost", "stays"} {
		manifest(t, h, gadgetPod(name, "{name: p, resourceClaimTemplateName: one}, {name: s, resourceClaimName: shared}", "resources: {claims: [{name: p}, {name: s}]}"))
	}
	s.ready("lost", "stays")
	if got := dynamic(t, h, "stays"); len(got) != 2 || got[0] != "shared" || !strings.HasPrefix(got[1], "stays-p-") {
		t.Errorf("the pod-resources API says that it has %q", got)
	}
	kill()
	h.Kubectl("delete", "pod", "lost", "--force", "--grace-period=0")
	s.asked("unprepare", 0)
	defer c.kubelet(forLong)()
	s.asked("unprepare lost-p-", 1)
	s.asked("unprepare", 1)
	s.ready("stays")
	if env, _ := s.devices("stays"); len(env) != 2 {
		t.Errorf("the other pod has %q", env)
	}
	h.Kubectl("delete", "pod", "stays", "--timeout=60s")
	s.asked("unprepare", 3)
	if st := s.tell(""); st.Prepared != 0 {
		t.Errorf("the driver: %+v", st)
	}
}

// dynamic names the claims that a pod's container has, by the pod-resources API.
func dynamic(t *testing.T, h *harness.Host, pod string) (claims []string) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+h.Path("/var/lib/skiff/kubelet/pod-resources/kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	got, err := podresources.NewPodResourcesListerClient(conn).Get(ctx, &podresources.GetPodResourcesRequest{PodName: pod, PodNamespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range got.PodResources.Containers[0].DynamicResources {
		if len(r.ClaimResources) != 1 || r.ClaimResources[0].DriverName != gadgetDriver || len(r.ClaimResources[0].CdiDevices) != 1 {
			t.Errorf("claim %s: %v", r.ClaimName, r.ClaimResources)
		}
		claims = append(claims, r.ClaimName)
	}
	return claims
}
