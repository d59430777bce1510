package reserve

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-node/skiff/kubelet/cgroup"
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

// TestOf: hard thresholds are kept as eviction reads them.
func TestOf(t *testing.T) {
	capacity := v1.ResourceList{v1.ResourceMemory: resource.MustParse("8Gi"), v1.ResourceEphemeralStorage: resource.MustParse("100Gi")}
	for lines, want := range map[string]string{
		"": "100Mi 10Gi",
		"kubeReserved: {memory: 1Gi}\nevictionHard: {memory.available: 25%, nodefs.available: 2Gi, imagefs.available: 50%}": "3Gi 2Gi",
		"evictionHard: {memory.available: 0%, nodefs.available: 100%}":                                                      "0 0",
	} {
		r, err := Read(configurationtest.With(t, lines))
		if err != nil {
			t.Fatal(err)
		}
		kept := r.Of(capacity)
		if got := kept.Memory().String() + " " + kept.StorageEphemeral().String(); got != want {
			t.Errorf("%q: %s, want %s", lines, got, want)
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

// TestNodeLimits: the resources and their amounts are those of upstream's getCgroupConfig.
func TestNodeLimits(t *testing.T) {
	for lines, want := range map[string]string{
		"": "shares 2048, memory 8589934592, pids 32768, 2Mi 6291456, 1Gi 0",
		"kubeReserved: {memory: 1Gi, pid: 1k}\nsystemReserved: {cpu: 500m, pid: \"10\", hugepages-2Mi: 4Mi}": "shares 1536, memory 7516192768, pids 31758, 2Mi 2097152, 1Gi 0",
		"enforceNodeAllocatable: [none]\nkubeReserved: {memory: 1Gi, pid: 1k}":                               "shares 2048, memory 8589934592, pids 32768, 2Mi 6291456, 1Gi 0",
		"kubeReserved: {cpu: \"4\", memory: 9Gi, pid: 40k}":                                                  "shares 2, pids 1, 2Mi 6291456, 1Gi 0",
	} {
		if got := said(NodeLimits(configurationtest.With(t, lines), machine())); got != want {
			t.Errorf("%q: %s, want %s", lines, got, want)
		}
	}
	unknown := machine()
	delete(unknown, PIDs)
	if l := NodeLimits(configurationtest.With(t, "kubeReserved: {pid: 1k}"), unknown); l.Pids != nil {
		t.Errorf("%d processes of a machine that does not tell how many there may be", *l.Pids)
	}
}

func TestGroupLimits(t *testing.T) {
	const reserved = `
systemReservedCgroup: /system
systemReserved: {cpu: 500m, memory: 1Gi, pid: "100", hugepages-2Mi: 2Mi}
kubeReservedCgroup: /kube
kubeReserved: {cpu: "1", memory: 1Gi, pid: "50"}`
	for lines, want := range map[string][2]string{
		"enforceNodeAllocatable: [pods, system-reserved, kube-reserved-compressible]": {
			"shares 512, memory 1073741824, min 1073741824, pids 100, 2Mi 2097152, 1Gi 0", "shares 1024"},
		"enforceNodeAllocatable: [kube-reserved]": {"none", "shares 1024, memory 1073741824, min 1073741824, pids 50, 2Mi 0, 1Gi 0"},
		"enforceNodeAllocatable: [kube-reserved]\nfeatureGates: {MemoryQoS: false}": {
			"none", "shares 1024, memory 1073741824, pids 50, 2Mi 0, 1Gi 0"},
		"enforceNodeAllocatable: [pods]": {"none", "none"},
	} {
		got := GroupLimits(configurationtest.With(t, lines+reserved), machine())
		for i, group := range []string{"/system", "/kube"} {
			text := "none"
			if l, ok := got[group]; ok {
				text = said(l)
			}
			if text != want[i] {
				t.Errorf("%q: %s: %s, want %s", lines, group, text, want[i])
			}
		}
	}
}

func machine() v1.ResourceList {
	list := v1.ResourceList{}
	for name, text := range map[v1.ResourceName]string{v1.ResourceCPU: "2", v1.ResourceMemory: "8Gi", PIDs: "32768", "hugepages-2Mi": "6Mi", "hugepages-1Gi": "0"} {
		list[name] = resource.MustParse(text)
	}
	return list
}

// said tells which limits there are.
func said(l cgroup.Limits) string {
	var out []string
	add := func(name string, v *int64) {
		if v != nil {
			out = append(out, fmt.Sprint(name, " ", *v))
		}
	}
	add("shares", l.Shares)
	add("quota", l.Quota)
	add("memory", l.Memory)
	add("min", l.Min)
	add("low", l.Low)
	add("high", l.High)
	add("pids", l.Pids)
	for _, size := range slices.Sorted(maps.Keys(l.HugePages)) {
		add(resource.NewQuantity(size, resource.BinarySI).String(), new(l.HugePages[size]))
	}
	return strings.Join(out, ", ")
}
