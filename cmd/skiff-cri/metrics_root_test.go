//go:build root

package main

import (
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPodMetricsOfARunningPod asks for the metrics of a pod that has used something of everything.
func TestPodMetricsOfARunningPod(t *testing.T) {
	h := newHost(t)
	config := h.sandboxConfig("metrics")
	box := h.runSandbox(config)
	c := containerConfig("app", "x=$(head -c 3000000 /dev/zero | tr '\\0' a); exec sleep 1000")
	c.Linux.Resources = &cri.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20}
	id := h.start(box, c, config)
	var values map[string]uint64
	h.until("the pod shows in the metrics", func() bool {
		list, err := h.runtime.ListPodSandboxMetrics(t.Context(), &cri.ListPodSandboxMetricsRequest{})
		if err != nil || len(list.PodMetrics) != 1 || len(list.PodMetrics[0].ContainerMetrics) != 1 {
			t.Fatalf("%v, %v", list, err)
		}
		values = map[string]uint64{}
		for _, m := range list.PodMetrics[0].Metrics {
			values["pod "+m.Name] += m.Value.Value
		}
		if list.PodMetrics[0].ContainerMetrics[0].ContainerId != id {
			t.Fatalf("%v", list)
		}
		for _, m := range list.PodMetrics[0].ContainerMetrics[0].Metrics {
			values[m.Name] += m.Value.Value
		}
		return values["container_memory_max_usage_bytes"] > 3000000 && values["container_processes"] == 1
	})
	for _, name := range []string{
		"container_memory_usage_bytes", "container_memory_rss", "container_threads", "container_file_descriptors", "container_memory_failures_total",
		"container_fs_usage_bytes", "container_fs_limit_bytes", "container_fs_inodes_free", "container_start_time_seconds", "container_ulimits_soft",
		"pod container_memory_usage_bytes", "pod container_processes", "pod container_start_time_seconds",
	} {
		if values[name] == 0 {
			t.Errorf("%s is 0 or missing", name)
		}
	}
	if values["container_spec_cpu_quota"] != 50000 || values["container_spec_memory_limit_bytes"] != 64<<20 {
		t.Errorf("%v", values)
	}
	if _, ok := values["pod container_network_receive_bytes_total"]; !ok {
		t.Error("the pod's network is not counted")
	}
}
