package stats

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fromRuntime asks the runtime for the metrics of its pods. Each names its labels' values in the order of the metric's
// description; what is not described cannot be shown.
func (c *Collector) fromRuntime(ctx context.Context) (*text, error) {
	described, err := c.cfg.Runtime.ListMetricDescriptors(ctx, &runtimeapi.ListMetricDescriptorsRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime which metrics it has: %w", err)
	}
	got, err := c.cfg.Runtime.ListPodSandboxMetrics(ctx, &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask the runtime for the metrics of its pods: %w", err)
	}
	t := newText()
	keys, kinds := map[string][]string{}, map[string]string{}
	for _, p := range got.PodMetrics {
		for _, m := range all(p) {
			kinds[m.Name] = gauge
			if m.MetricType == runtimeapi.MetricType_COUNTER {
				kinds[m.Name] = counter
			}
		}
	}
	for _, d := range described.Descriptors {
		keys[d.Name] = d.LabelKeys
		if kind := kinds[d.Name]; kind != "" {
			t.describe(d.Name, kind, d.Help)
		}
	}
	for _, p := range got.PodMetrics {
		for _, m := range all(p) {
			t.metric(m, keys[m.Name])
		}
	}
	return t, nil
}

// all are the metrics of a pod and of its containers.
func all(p *runtimeapi.PodSandboxMetrics) []*runtimeapi.Metric {
	list := slices.Clone(p.Metrics)
	for _, ct := range p.ContainerMetrics {
		list = append(list, ct.Metrics...)
	}
	return list
}

// metric adds one of the runtime's. Its time is zero when it was measured for this very call.
func (t *text) metric(m *runtimeapi.Metric, keys []string) {
	if len(keys) != len(m.LabelValues) {
		return
	}
	labels := make([]string, 0, 2*len(keys))
	for i, key := range keys {
		labels = append(labels, key, m.LabelValues[i])
	}
	var at time.Time
	if m.Timestamp != 0 {
		at = time.Unix(0, m.Timestamp)
	}
	t.add(m.Name, float64(m.GetValue().GetValue()), at, labels...)
}

// machine tells what the machine has.
func machine(t *text) {
	memory := table(read("/proc/meminfo"))
	id := strings.TrimSpace(read("/etc/machine-id"))
	labels := []string{"boot_id", strings.TrimSpace(read("/proc/sys/kernel/random/boot_id")), "machine_id", id, "system_uuid", systemUUID(id)}
	for _, m := range []struct {
		name, help string
		value      float64
	}{
		{"machine_cpu_cores", "Number of logical CPU cores.", float64(runtime.NumCPU())},
		{"machine_memory_bytes", "Amount of memory installed on the machine.", float64(memory["MemTotal"])},
		{"machine_swap_bytes", "Amount of swap memory available on the machine.", float64(memory["SwapTotal"])},
	} {
		t.describe(m.name, gauge, m.help)
		t.add(m.name, m.value, time.Time{}, labels...)
	}
	t.describe("machine_scrape_error", gauge, "1 if there was an error while getting machine metrics, 0 otherwise.")
	t.add("machine_scrape_error", 0, time.Time{})
}

// systemUUID is the firmware's, which virtual machines may lack.
func systemUUID(otherwise string) string {
	raw, err := os.ReadFile("/sys/class/dmi/id/product_uuid")
	if id := strings.TrimSpace(string(raw)); err == nil && id != "" {
		return id
	}
	return otherwise
}
