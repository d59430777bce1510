package dra

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
)

// helped is a driver on upstream's helper, as most drivers are. It notes what it was asked.
type helped struct {
	name  string
	asked chan string
}

func (d helped) PrepareResourceClaims(_ context.Context, claims []*resourceapi.ResourceClaim) (map[types.UID]kubeletplugin.PrepareResult, error) {
	out := map[types.UID]kubeletplugin.PrepareResult{}
	for _, c := range claims {
		d.asked <- d.name + " prepare " + c.Name
		out[c.UID] = kubeletplugin.PrepareResult{Devices: []kubeletplugin.Device{{Requests: []string{"it/best"}, PoolName: "pool", DeviceName: "d", CDIDeviceIDs: []string{driverName + "/claim=" + c.Name}}}}
	}
	return out, nil
}

func (d helped) UnprepareResourceClaims(_ context.Context, claims []kubeletplugin.NamespacedObject) (map[types.UID]error, error) {
	out := map[types.UID]error{}
	for _, c := range claims {
		d.asked <- d.name + " unprepare " + c.Name
		out[c.UID] = nil
	}
	return out, nil
}

// WatchHealthStatus tells of nothing, and then that it never will: the service is announced all the same.
func (helped) WatchHealthStatus(context.Context, chan<- kubeletplugin.DeviceHealthReport) error {
	return kubeletplugin.ErrHealthNotSupported
}

func (helped) HandleError(context.Context, error, string) {}

// TestHelper has two instances of a driver made with upstream's helper, the second of which takes over from the first
// (rolling update).
func TestHelper(t *testing.T) {
	b := newBench(t)
	for _, dir := range []string{"p", "r"} {
		if err := os.MkdirAll(filepath.Join(b.dir, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	asked := make(chan string, 10)
	start := func(name string) *kubeletplugin.Helper {
		t.Helper()
		h, err := kubeletplugin.Start(t.Context(), helped{name, asked}, kubeletplugin.DriverName(driverName), kubeletplugin.KubeClient(b.client), kubeletplugin.NodeName("node"),
			kubeletplugin.RegistrarDirectoryPath(filepath.Join(b.dir, "r")), kubeletplugin.PluginDataDirectoryPath(filepath.Join(b.dir, "p")), kubeletplugin.RollingUpdate(types.UID(name)))
		if err != nil {
			t.Fatal(err)
		}
		b.until("the instance is registered", func() bool {
			s := h.RegistrationStatus()
			return s != nil && s.PluginRegistered && b.node.Drivers.Reachable(driverName)
		})
		return h
	}
	expect := func(want string) {
		t.Helper()
		if got := <-asked; got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	p := b.pod("p", `spec: {resourceClaims: [{name: x, resourceClaimName: a}], containers: [{name: main, resources: {claims: [{name: x, request: it}]}}]}`)
	b.claim("a", []string{driverName}, p)
	first := start("first")
	b.prepare(p)
	expect("first prepare a")
	if got, err := b.node.Devices(p, &p.Spec.Containers[0]); err != nil || len(got) != 1 {
		t.Errorf("%q %v", got, err)
	}
	second := start("second")
	defer second.Stop()
	first.Stop()
	b.until("the claim is taken back", func() bool { return b.node.Release(t.Context(), p.UID) == nil })
	expect("second unprepare a")
}
