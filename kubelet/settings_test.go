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
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"

	"github.com/skiff-node/skiff/kubelet/configuration"
)

// conf is a complete configuration with these lines in it.
func conf(t *testing.T, lines string) *kubeletconfig.KubeletConfiguration {
	t.Helper()
	c := &kubeletconfig.KubeletConfiguration{}
	if err := yaml.UnmarshalStrict([]byte(lines), c); err != nil {
		t.Fatal(err)
	}
	c, err := configuration.Complete(c)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestHardThresholds(t *testing.T) {
	for lines, want := range map[string]string{
		"":                                      "100Mi 10%",
		"evictionHard: {memory.available: 1Gi}": "1Gi ",
		"evictionHard: {memory.available: 1Gi}\nmergeDefaultEvictionSettings: true": "1Gi 10%",
	} {
		got := hardThresholds(conf(t, lines))
		if s := got["memory.available"] + " " + got["nodefs.available"]; s != want {
			t.Errorf("%q: %q, want %q", lines, s, want)
		}
	}
}

func TestShutdownGroups(t *testing.T) {
	if g := shutdownGroups(conf(t, "")); g != nil {
		t.Errorf("%v", g)
	}
	g := shutdownGroups(conf(t, "shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 10s"))
	if fmt.Sprint(g) != "[{0 20s} {2000000000 10s}]" {
		t.Errorf("%v", g)
	}
	g = shutdownGroups(conf(t, "shutdownGracePeriodByPodPriority: [{priority: 7, shutdownGracePeriodSeconds: 3}]"))
	if fmt.Sprint(g) != "[{7 3s}]" {
		t.Errorf("%v", g)
	}
}

func TestMaxPods(t *testing.T) {
	if n := maxPods(conf(t, ""), 4); n != 110 {
		t.Error(n)
	}
	if n := maxPods(conf(t, "podsPerCore: 10"), 4); n != 40 {
		t.Error(n)
	}
	if n := maxPods(conf(t, "podsPerCore: 100"), 4); n != 110 {
		t.Error(n)
	}
}

func TestReservedSystemCPUs(t *testing.T) {
	r, err := readReservation(conf(t, "reservedSystemCPUs: 0-1,3\nkubeReserved: {cpu: 100m, memory: 1Gi}"))
	if err != nil {
		t.Fatal(err)
	}
	kept := r.of(v1.ResourceList{v1.ResourceCPU: resource.MustParse("8"), v1.ResourceMemory: resource.MustParse("8Gi")})
	if kept.Cpu().String() != "3" || kept.Memory().String() != "1124Mi" {
		t.Errorf("%v", kept)
	}
}

func TestNodeLimits(t *testing.T) {
	allocatable := v1.ResourceList{v1.ResourceCPU: resource.MustParse("2")}
	if l := nodeLimits(conf(t, "kubeReserved: {memory: 1Gi}"), 8<<30, allocatable); *l.Shares != 2048 || *l.Memory != 7<<30 {
		t.Errorf("%+v", l)
	}
	if l := nodeLimits(conf(t, "enforceNodeAllocatable: [none]"), 8<<30, allocatable); l.Shares != nil || l.Memory != nil {
		t.Errorf("%+v", l)
	}
	got := reservedLimits(conf(t, `
enforceNodeAllocatable: [pods, system-reserved, kube-reserved-compressible]
systemReservedCgroup: /system
systemReserved: {cpu: 500m, memory: 1Gi, pid: "100"}
kubeReservedCgroup: /kube
kubeReserved: {cpu: "1", memory: 1Gi}`))
	if s, k := got["/system"], got["/kube"]; len(got) != 2 || *s.Shares != 512 || *s.Memory != 1<<30 || *s.Pids != 100 || *k.Shares != 1024 || k.Memory != nil {
		t.Errorf("%+v", got)
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
	rc := eventConfig(&rest.Config{QPS: -1}, conf(t, ""))
	if rc.QPS != 50 || rc.Burst != 100 {
		t.Errorf("events: %v %v", rc.QPS, rc.Burst)
	}
	if rc = eventConfig(&rest.Config{}, conf(t, "eventRecordQPS: 0")); rc.QPS != -1 {
		t.Errorf("events without limit: %v", rc.QPS)
	}
	if pullRate(conf(t, "")) != 0 || pullRate(conf(t, "registryPullQPS: 3")) != 3 {
		t.Error("pulls")
	}
}
