package reserve

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-node/skiff/kubelet/configuration/configurationtest"
)

func TestHardThresholds(t *testing.T) {
	for lines, want := range map[string]string{
		"":                                      "100Mi 10%",
		"evictionHard: {memory.available: 1Gi}": "1Gi ",
		"evictionHard: {memory.available: 1Gi}\nmergeDefaultEvictionSettings: true": "1Gi 10%",
	} {
		got := HardThresholds(configurationtest.With(t, lines))
		if s := got["memory.available"] + " " + got["nodefs.available"]; s != want {
			t.Errorf("%q: %q, want %q", lines, s, want)
		}
	}
}

func TestReservedSystemCPUs(t *testing.T) {
	r, err := Read(configurationtest.With(t, "reservedSystemCPUs: 0-1,3\nkubeReserved: {cpu: 100m, memory: 1Gi}"))
	if err != nil {
		t.Fatal(err)
	}
	kept := r.Of(v1.ResourceList{v1.ResourceCPU: resource.MustParse("8"), v1.ResourceMemory: resource.MustParse("8Gi")})
	if kept.Cpu().String() != "3" || kept.Memory().String() != "1124Mi" {
		t.Errorf("%v", kept)
	}
}

func TestNodeLimits(t *testing.T) {
	capacity := v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("8Gi")}
	for lines, want := range map[string][2]int64{
		"": {2048, 8 << 30},
		"kubeReserved: {memory: 1Gi}\nsystemReserved: {cpu: 500m, pid: \"10\"}": {1536, 7 << 30},
		"enforceNodeAllocatable: [none]\nkubeReserved: {memory: 1Gi}":           {2048, 8 << 30},
	} {
		if l := NodeLimits(configurationtest.With(t, lines), capacity); *l.Shares != want[0] || *l.Memory != want[1] {
			t.Errorf("%q: %d shares, %d bytes", lines, *l.Shares, *l.Memory)
		}
	}
	got := GroupLimits(configurationtest.With(t, `
enforceNodeAllocatable: [pods, system-reserved, kube-reserved-compressible]
systemReservedCgroup: /system
systemReserved: {cpu: 500m, memory: 1Gi, pid: "100"}
kubeReservedCgroup: /kube
kubeReserved: {cpu: "1", memory: 1Gi}`))
	if s, k := got["/system"], got["/kube"]; len(got) != 2 || *s.Shares != 512 || *s.Memory != 1<<30 || *s.Min != 1<<30 || *s.Pids != 100 || *k.Shares != 1024 ||
		k.Memory != nil || k.Min != nil {
		t.Errorf("%+v", got)
	}
	got = GroupLimits(configurationtest.With(t, "featureGates: {MemoryQoS: false}\nenforceNodeAllocatable: [kube-reserved]\nkubeReservedCgroup: /kube\nkubeReserved: {memory: 1Gi}"))
	if k := got["/kube"]; *k.Memory != 1<<30 || k.Min != nil {
		t.Errorf("without MemoryQoS: %+v", got)
	}
}
