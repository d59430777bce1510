package kubelet

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/client-go/rest"

	"github.com/skiff-node/skiff/kubelet/configuration/configurationtest"
	"github.com/skiff-node/skiff/kubelet/pod/admit"
)

func TestShutdownGroups(t *testing.T) {
	if g := shutdownGroups(configurationtest.With(t, "")); g != nil {
		t.Errorf("%v", g)
	}
	g := shutdownGroups(configurationtest.With(t, "shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s"))
	if fmt.Sprint(g) != "[{0 20s} {2000000000 10s}]" {
		t.Errorf("%v", g)
	}
	g = shutdownGroups(configurationtest.With(t, "shutdownGracePeriodByPodPriority: [{priority: 7, shutdownGracePeriodSeconds: 3}]"))
	if fmt.Sprint(g) != "[{7 3s}]" {
		t.Errorf("%v", g)
	}
}

func TestMaxPods(t *testing.T) {
	if n := maxPods(configurationtest.With(t, ""), 4); n != 110 {
		t.Error(n)
	}
	if n := maxPods(configurationtest.With(t, "podsPerCore: 10"), 4); n != 40 {
		t.Error(n)
	}
	if n := maxPods(configurationtest.With(t, "podsPerCore: 100"), 4); n != 110 {
		t.Error(n)
	}
}

func TestProtectKernelDefaults(t *testing.T) {
	dir := t.TempDir()
	for name, value := range wanted {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := protect(dir); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kernel/panic"), []byte("0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := protect(dir); err == nil || !strings.Contains(err.Error(), "kernel.panic, expected value: 10, actual value: 0") {
		t.Error(err)
	}
}

func TestRates(t *testing.T) {
	rc := eventConfig(&rest.Config{QPS: -1}, configurationtest.With(t, ""))
	if rc.QPS != 50 || rc.Burst != 100 {
		t.Errorf("events: %v %v", rc.QPS, rc.Burst)
	}
	if rc = eventConfig(&rest.Config{}, configurationtest.With(t, "eventRecordQPS: 0")); rc.QPS != -1 {
		t.Errorf("events without limit: %v", rc.QPS)
	}
	if pullRate(configurationtest.With(t, "")) != 0 || pullRate(configurationtest.With(t, "registryPullQPS: 3")) != 3 {
		t.Error("pulls")
	}
}

// TestStorageNotCounted: with localStorageCapacityIsolation: false the node offers no ephemeral storage, and a pod that asks for
// some is not taken in.
func TestStorageNotCounted(t *testing.T) {
	for lines, counted := range map[string]bool{"": true, "localStorageCapacityIsolation: false": false} {
		cfg := &Config{Configuration: configurationtest.With(t, lines), RootDir: t.TempDir(), NodeIPs: []string{"192.0.2.1"}}
		m, err := readMachine(cfg)
		if err != nil {
			t.Fatal(err)
		}
		list := m.capacity(110)
		if q, has := list[v1.ResourceEphemeralStorage]; has != counted || counted && q.Sign() <= 0 {
			t.Errorf("%q: %v", lines, list)
		}
		offered(list)
		pod := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceEphemeralStorage: resource.MustParse("1Ki")}}}}}}
		refusal := admit.Check(pod, false, nil, admit.Node{Allocatable: list})
		if counted != (refusal == nil) || !counted && refusal.Reason != "OutOfephemeral-storage" {
			t.Errorf("%q: %+v", lines, refusal)
		}
	}
}
