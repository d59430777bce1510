//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/skiff-node/skiff/kubelet/assign/devices/devicetest"
	"github.com/skiff-node/skiff/test/harness"
)

// runPlugin is a device plugin with two gauges. As real ones do it registers again when its socket has gone, which is what a
// new kubelet does to it. The line "sick a" makes a gauge unhealthy; each line is answered by what the plugin was asked.
func runPlugin(in io.Reader, out io.Writer) error {
	const dir = "/var/lib/kubelet/device-plugins"
	answer := func(ids []string) *api.ContainerAllocateResponse {
		return &api.ContainerAllocateResponse{Envs: map[string]string{"GAUGES": strings.Join(ids, ",")},
			Mounts:     []*api.Mount{{HostPath: "/var/lib/skiff/gauges", ContainerPath: "/gauges", ReadOnly: true}},
			Devices:    []*api.DeviceSpec{{HostPath: "/dev/zero", ContainerPath: "/dev/gauge", Permissions: "r"}},
			CdiDevices: []*api.CDIDevice{{Name: "example.org/gauge=" + ids[0]}}}
	}
	list := []*api.Device{devicetest.Device("a", true, 0), devicetest.Device("b", true, 0)}
	start := func() (*devicetest.Plugin, error) {
		p, err := devicetest.Start(devicetest.Options{Resource: "example.org/gauge", Dir: dir, Socket: "gauge.sock", Devices: list, PreStart: true, Answer: answer})
		if err != nil {
			return nil, err
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		return p, p.Register(ctx)
	}
	p, err := start()
	if err != nil {
		return err
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			lines <- s.Text()
		}
	}()
	for {
		select {
		case <-time.After(100 * time.Millisecond):
			if _, err := os.Stat(filepath.Join(dir, "gauge.sock")); err == nil {
				continue
			}
			p.Stop()
			if p, err = start(); err != nil {
				return err
			}
		case line, more := <-lines:
			if !more {
				p.Stop()
				return nil
			}
			if id, sick := strings.CutPrefix(line, "sick "); sick {
				list = slices.Clone(list)
				for i := range list {
					list[i] = devicetest.Device(list[i].ID, list[i].Health == api.Healthy && list[i].ID != id, 0)
				}
				p.Set(list...)
			}
			if err := json.NewEncoder(out).Encode(p.Calls()); err != nil {
				return err
			}
		}
	}
}

const gaugePod = `
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "trap 'exit 0' TERM; while ! test -e /tmp/end; do sleep 0.1; done; exit 3"]
    resources: {limits: {example.org/gauge: %d}}
`

// shortPod takes the gauge that is left and ends.
const shortPod = `
apiVersion: v1
kind: Pod
metadata: {name: short}
spec:
  restartPolicy: Never
  nodeName: %s
  containers: [{name: c, image: "localhost/skiff/busybox:v1", command: ["true"], resources: {limits: {example.org/gauge: 1}}}]
`

// cdi describes to the runtime what belongs to each gauge.
const cdi = `{"cdiVersion": "0.6.0", "kind": "example.org/gauge", "devices": [
  {"name": "a", "containerEdits": {"env": ["SCALE=celsius"]}}, {"name": "b", "containerEdits": {"env": ["SCALE=kelvin"]}}]}`

// TestDevicePlugin: pods get devices of a plugin and what belongs to them, and keep them over the loss of kubelet and plugin.
func TestDevicePlugin(t *testing.T) {
	h := harness.NewHost(t)
	h.Up()
	for file, text := range map[string]string{"/etc/cdi/gauge.json": cdi, "/var/lib/skiff/gauges/scale": "0-100\n"} {
		h.MustRun("mkdir", "-p", filepath.Dir(file))
		if err := os.WriteFile(h.Path(file), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tell, stop := inside[[]string](t, h, "device plugin")
	offers := func(want string) {
		t.Helper()
		harness.Eventually(t, time.Minute, "the node offers "+want, func() (bool, string) {
			out, _ := h.Skiff("kubectl", "get", "nodes", "-o", `jsonpath={.items[0].status.allocatable.example\.org/gauge} of {.items[0].status.capacity.example\.org/gauge}`)
			return strings.TrimSpace(out) == want, out
		})
	}
	health := func(pod, want string) {
		t.Helper()
		harness.Eventually(t, time.Minute, "the device of "+pod+" is "+want, func() (bool, string) {
			out := strings.TrimSpace(h.Kubectl("get", "pod", pod, "-o", "jsonpath={range .status.containerStatuses[0].allocatedResourcesStatus[*]}{.name} {.resources[*].resourceID} {.resources[*].health}{end}"))
			return out == "example.org/gauge "+want, out
		})
	}
	sh := func(pod, script string) string {
		return strings.TrimSpace(h.Kubectl("exec", pod, "--", "sh", "-c", script))
	}
	offers("2 of 2")
	manifest(t, h, fmt.Sprintf(gaugePod, "first", "restartPolicy: Always", 1))
	h.Kubectl("wait", "--for=condition=Ready", "pod/first", "--timeout=60s")
	if got := sh("first", "echo $GAUGES $SCALE; cat /gauges/scale; test -c /dev/gauge && echo device; touch /gauges/x 2>/dev/null || echo read-only"); got != "a celsius\n0-100\ndevice\nread-only" {
		t.Errorf("in the container: %q", got)
	}
	health("first", "a Healthy")
	if got := strings.Join(tell(""), "; "); got != "allocate a; pre-start a" {
		t.Errorf("the plugin was asked: %s", got)
	}
	holds(t, h, "first", "example.org/gauge [a]")
	refused(t, h)

	restart(t, h)
	offers("2 of 2")
	health("first", "a Healthy")
	manifest(t, h, fmt.Sprintf(gaugePod, "second", "restartPolicy: Always", 1))
	h.Kubectl("wait", "--for=condition=Ready", "pod/second", "--timeout=60s")
	if got := sh("second", "echo $GAUGES $SCALE"); got != "b kelvin" {
		t.Errorf("the second pod has %q", got)
	}
	sh("first", "touch /tmp/end")
	harness.Eventually(t, time.Minute, "the container has been restarted with its device", func() (bool, string) {
		out, err := h.Skiff("kubectl", "exec", "first", "--", "sh", "-c", "test -e /tmp/end && exit 1; echo $GAUGES $SCALE")
		return err == nil && strings.TrimSpace(out) == "a celsius", out
	})

	h.Kubectl("delete", "pod", "second", "--timeout=60s")
	for range 5 { // what a finished pod had is free as soon as one can know that it has finished
		manifest(t, h, fmt.Sprintf(shortPod, nodeName(h)))
		harness.Eventually(t, time.Minute, "a short pod succeeds", func() (bool, string) {
			got := strings.TrimSpace(h.Kubectl("get", "pod", "short", "-o", "jsonpath={.status.phase} {.status.message}"))
			return got == "Succeeded", got
		})
		manifest(t, h, strings.Replace(fmt.Sprintf(shortPod, nodeName(h)), "name: short", "name: next", 1))
		harness.Eventually(t, time.Minute, "the next one too", func() (bool, string) {
			got := strings.TrimSpace(h.Kubectl("get", "pod", "next", "-o", "jsonpath={.status.phase} {.status.message}"))
			return got == "Succeeded", got
		})
		h.Kubectl("delete", "pod", "short", "next", "--timeout=60s")
	}
	manifest(t, h, fmt.Sprintf(gaugePod, "second", "restartPolicy: Always", 1))
	h.Kubectl("wait", "--for=condition=Ready", "pod/second", "--timeout=60s")

	stop()
	offers("0 of 2")
	health("first", "a Unknown")
	tell, _ = inside[[]string](t, h, "device plugin")
	offers("2 of 2")
	health("first", "a Healthy")
	tell("sick a")
	offers("1 of 2")
	health("first", "a Unhealthy")
	health("second", "b Healthy")
	h.Kubectl("delete", "pod", "second", "--timeout=60s")
	// The scheduler counts the unhealthy one, that the first pod has, against the one that is left.
	manifest(t, h, fmt.Sprintf(gaugePod, "third", "nodeName: "+nodeName(h), 1))
	h.Kubectl("wait", "--for=condition=Ready", "pod/third", "--timeout=60s")
	if got := sh("third", "echo $GAUGES"); got != "b" {
		t.Errorf("the third pod has %q", got)
	}
}

func nodeName(h *harness.Host) string {
	return strings.TrimSpace(h.Kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"))
}

// refused: a pod that comes past the scheduler is told what is missing.
func refused(t *testing.T, h *harness.Host) {
	t.Helper()
	manifest(t, h, fmt.Sprintf(gaugePod, "greedy", "nodeName: "+nodeName(h), 2))
	want := "Failed UnexpectedAdmissionError Pod was rejected: Allocate failed due to requested number of devices unavailable for example.org/gauge. Requested: 2, Available: 1, which is unexpected"
	harness.Eventually(t, time.Minute, "a pod that asks for too much is refused", func() (bool, string) {
		got := strings.TrimSpace(h.Kubectl("get", "pod", "greedy", "-o", "jsonpath={.status.phase} {.status.reason} {.status.message}"))
		return got == want, got
	})
	h.Kubectl("delete", "pod", "greedy", "--timeout=60s")
}

// holds asks the pod-resources API which devices a pod has.
func holds(t *testing.T, h *harness.Host, pod, want string) {
	t.Helper()
	conn, err := grpc.NewClient("unix://"+h.Path("/var/lib/skiff/kubelet/pod-resources/kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	client := podresources.NewPodResourcesListerClient(conn)
	got, err := client.Get(ctx, &podresources.GetPodResourcesRequest{PodName: pod, PodNamespace: "default"})
	if err != nil {
		t.Fatal(err)
	}
	if d := got.PodResources.Containers[0].Devices; len(d) != 1 || fmt.Sprint(d[0].ResourceName, " ", d[0].DeviceIds) != want || len(d[0].Topology.Nodes) != 1 {
		t.Errorf("%s has %v", pod, d)
	}
	if all, err := client.GetAllocatableResources(ctx, &podresources.AllocatableResourcesRequest{}); err != nil || len(all.Devices) != 2 {
		t.Errorf("%v %v", all, err)
	}
}
