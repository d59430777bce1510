package memory

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/pod"
)

// podOf has one container with that memory: request/limit, either may be empty.
func podOf(request, limit string) *v1.Pod {
	r := v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}
	if request != "" {
		r.Requests[v1.ResourceMemory] = resource.MustParse(request)
	}
	if limit != "" {
		r.Limits[v1.ResourceMemory] = resource.MustParse(limit)
	}
	return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: r}}}}
}

func guaranteed(memory string) *v1.Pod {
	p := podOf(memory, memory)
	for _, l := range []v1.ResourceList{p.Spec.Containers[0].Resources.Requests, p.Spec.Containers[0].Resources.Limits} {
		l[v1.ResourceCPU] = resource.MustParse("1")
	}
	return p
}

func with(p *v1.Pod, change func(*v1.Pod)) *v1.Pod { change(p); return p }

const gi = 1 << 30

func TestTune(t *testing.T) {
	limited := Policy{Total: 8 * gi, Swap: 4 * gi, Version: cgroup.V2, Control: true, Limited: true}
	none := Policy{Total: 8 * gi, Swap: 4 * gi, Version: cgroup.V2, Control: true}
	qos := Policy{Version: cgroup.V2, Tiered: true, Throttling: .9, Allocatable: func() int64 { return 4 * gi }}
	critical := int32(2_000_000_000)
	for name, tc := range map[string]struct {
		policy Policy
		pod    *v1.Pod
		want   string
	}{
		"a quarter of the memory, a quarter of the swap": {limited, podOf("2Gi", "4Gi"), "memory.high=max memory.swap.max=1073741824"},
		"no limit":               {limited, podOf("1Gi", ""), "memory.high=max memory.swap.max=536870912"},
		"more than there is":     {limited, podOf("9Gi", ""), "memory.high=max memory.swap.max=0"},
		"best effort":            {limited, podOf("", ""), "memory.high=max memory.swap.max=0"},
		"guaranteed":             {limited, guaranteed("1Gi"), "memory.high=max memory.swap.max=0"},
		"burstable, all it asks": {limited, podOf("1Gi", "1Gi"), "memory.high=max memory.swap.max=0"},
		"critical":               {limited, with(podOf("1Gi", ""), func(p *v1.Pod) { p.Spec.Priority = &critical }), "memory.high=max memory.swap.max=0"},
		"static":                 {limited, with(podOf("1Gi", ""), func(p *v1.Pod) { p.Annotations = map[string]string{pod.AnnotationSource: "file"} }), "memory.high=max memory.swap.max=0"},
		"NoSwap":                 {none, podOf("1Gi", "2Gi"), "memory.high=max memory.swap.max=0"},
		"nothing counts swap":    {Policy{Version: cgroup.V2}, podOf("1Gi", "2Gi"), "memory.high=max"},
		"v1":                     {Policy{Version: cgroup.V1, Control: true}, podOf("1Gi", "2Gi"), "swap=77"},
		"v1 without swap":        {Policy{Version: cgroup.V1, Tiered: true, Throttling: .9}, podOf("1Gi", "2Gi"), ""},
		"killed as a whole":      {Policy{Version: cgroup.V2, Together: true}, podOf("1Gi", "2Gi"), "memory.high=max memory.oom.group=1"},
		"v1 kills one":           {Policy{Version: cgroup.V1, Together: true}, podOf("1Gi", "2Gi"), ""},
		"protected softly":       {qos, podOf("1Gi", "2Gi"), "memory.high=2040107008 memory.low=1073741824"},
		"protected":              {qos, guaranteed("1Gi"), "memory.high=max memory.min=1073741824"},
		"on the way to all":      {qos, podOf("1Gi", ""), "memory.high=3972841472 memory.low=1073741824"},
		"all that it asks for":   {qos, podOf("2Gi", "2Gi"), "memory.high=max memory.low=2147483648"},
		"nothing asked":          {qos, podOf("", ""), "memory.high=3865468928"},
		"the pod has a limit": {qos, with(podOf("1Gi", ""), func(p *v1.Pod) {
			p.Spec.Resources = &v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceMemory: resource.MustParse("2Gi")}}
		}), "memory.high=max memory.low=1073741824"},
	} {
		r := &cri.LinuxContainerResources{MemoryLimitInBytes: 77}
		tc.policy.Tune(tc.pod, &tc.pod.Spec.Containers[0], r)
		var got []string
		if r.MemorySwapLimitInBytes != 0 {
			got = append(got, fmt.Sprintf("swap=%d", r.MemorySwapLimitInBytes))
		}
		for _, file := range slices.Sorted(maps.Keys(r.Unified)) {
			got = append(got, file+"="+r.Unified[file])
		}
		if text := strings.Join(got, " "); text != tc.want {
			t.Errorf("%s: %q, want %q", name, text, tc.want)
		}
	}
}

func TestHigh(t *testing.T) {
	p := Policy{Throttling: .5}
	for name, tc := range map[string][3]int64{
		"half the way":         {0, 4 * 4096, 2 * 4096},
		"whole pages":          {0, 3 * 4096, 4096},
		"nothing in between":   {4096, 4096, 0},
		"no limit":             {4096, 0, 0},
		"less than is granted": {4096, 4097, 0},
	} {
		if got := p.High(tc[0], tc[1]); got != tc[2]*int64(os.Getpagesize())/4096 && got != tc[2] {
			t.Errorf("%s: %d, want %d", name, got, tc[2])
		}
	}
	if got := (Policy{}).High(0, 8192); got != 0 {
		t.Errorf("without a factor: %d", got)
	}
}

func TestRefusals(t *testing.T) {
	err := Policy{Version: cgroup.V1, Limited: true}.check()
	if err == nil || !strings.Contains(err.Error(), "LimitedSwap but it is only supported with cgroupv2") {
		t.Error(err)
	}
	if err := (Policy{Version: cgroup.V2, Limited: true}).check(); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), "swaps")
	for text, want := range map[string]bool{"Filename\tType\n": false, "Filename\tType\n/dev/sda2 partition 1 0 -2\n": true} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if on, err := swapOn(path); on != want || err != nil {
			t.Errorf("%q: %v, %v", text, on, err)
		}
	}
	if on, err := swapOn(filepath.Join(path, "none")); on || err == nil {
		t.Errorf("not a directory: %v, %v", on, err)
	}
	if _, err := Read(&kubeletconfig.KubeletConfiguration{}, gi, 0); err != nil {
		t.Error(err)
	}
}
