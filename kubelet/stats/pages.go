package stats

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Pages are the pages by path, as kubelet/server takes them.
func (c *Collector) Pages() map[string]http.Handler {
	return map[string]http.Handler{
		"/stats/summary":    http.HandlerFunc(c.summaryPage),
		"/metrics/resource": http.HandlerFunc(c.resourcePage),
		"/metrics/cadvisor": http.HandlerFunc(c.cadvisorPage),
		"/metrics":          http.HandlerFunc(c.kubeletPage),
	}
}

func (c *Collector) summaryPage(w http.ResponseWriter, r *http.Request) {
	s, err := c.Summary(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if c.cfg.System != nil {
		s.Node.SystemContainers = c.cfg.System()
	}
	if only, _ := strconv.ParseBool(r.URL.Query().Get("only_cpu_and_memory")); only {
		s = cpuAndMemory(s)
	} else {
		for i := range s.Pods {
			s.Pods[i].VolumeStats = c.cfg.Volumes(r.Context(), types.UID(s.Pods[i].PodRef.UID))
		}
	}
	data, err := json.MarshalIndent(s, "", " ")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(data)
}

func cpuAndMemory(s *v1alpha1.Summary) *v1alpha1.Summary {
	out := &v1alpha1.Summary{Node: v1alpha1.NodeStats{NodeName: s.Node.NodeName, StartTime: s.Node.StartTime, CPU: s.Node.CPU, Memory: s.Node.Memory,
		SystemContainers: s.Node.SystemContainers}}
	out.Pods = []v1alpha1.PodStats{}
	for _, p := range s.Pods {
		q := v1alpha1.PodStats{PodRef: p.PodRef, StartTime: p.StartTime, CPU: p.CPU, Memory: p.Memory, Containers: []v1alpha1.ContainerStats{}}
		for _, ct := range p.Containers {
			q.Containers = append(q.Containers, v1alpha1.ContainerStats{Name: ct.Name, StartTime: ct.StartTime, CPU: ct.CPU, Memory: ct.Memory})
		}
		out.Pods = append(out.Pods, q)
	}
	return out
}

// nano turns nanoseconds into seconds.
const nano = 1e-9

// resourcePage is the stable set of metrics-server (KEP-1916 names).
func (c *Collector) resourcePage(w http.ResponseWriter, r *http.Request) {
	t := newText()
	t.describe("container_cpu_usage_seconds_total", counter, "[STABLE] Cumulative cpu time consumed by the container in core-seconds")
	t.describe("container_memory_working_set_bytes", gauge, "[STABLE] Current working set of the container in bytes")
	t.describe("container_start_time_seconds", gauge, "[STABLE] Start time of the container since unix epoch in seconds")
	t.describe("container_swap_limit_bytes", gauge, "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems")
	t.describe("container_swap_usage_bytes", gauge, "[ALPHA] Current amount of the container swap usage in bytes")
	t.describe("node_cpu_usage_seconds_total", counter, "[STABLE] Cumulative cpu time consumed by the node in core-seconds")
	t.describe("node_memory_working_set_bytes", gauge, "[STABLE] Current working set of the node in bytes")
	t.describe("node_swap_usage_bytes", gauge, "[ALPHA] Current swap usage of the node in bytes")
	t.describe("pod_cpu_usage_seconds_total", counter, "[STABLE] Cumulative cpu time consumed by the pod in core-seconds")
	t.describe("pod_memory_working_set_bytes", gauge, "[STABLE] Current working set of the pod in bytes")
	t.describe("pod_swap_usage_bytes", gauge, "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems")
	t.describe("resource_scrape_error", gauge, "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise")
	s, err := c.Summary(r.Context())
	if err != nil {
		t.add("resource_scrape_error", 1, time.Time{})
		s = &v1alpha1.Summary{Node: c.node(r.Context())}
	} else {
		t.add("resource_scrape_error", 0, time.Time{})
	}
	use(t, "node", s.Node.CPU, s.Node.Memory)
	if sw := s.Node.Swap; sw != nil {
		t.maybe("node_swap_usage_bytes", sw.SwapUsageBytes, 1, sw.Time.Time)
	}
	for _, p := range s.Pods {
		use(t, "pod", p.CPU, p.Memory, "namespace", p.PodRef.Namespace, "pod", p.PodRef.Name)
		if p.Swap != nil {
			t.maybe("pod_swap_usage_bytes", p.Swap.SwapUsageBytes, 1, p.Swap.Time.Time, "namespace", p.PodRef.Namespace, "pod", p.PodRef.Name)
		}
		for _, ct := range p.Containers {
			labels := []string{"container", ct.Name, "namespace", p.PodRef.Namespace, "pod", p.PodRef.Name}
			use(t, "container", ct.CPU, ct.Memory, labels...)
			t.add("container_start_time_seconds", float64(ct.StartTime.UnixNano())*nano, time.Time{}, labels...)
			swap(t, ct.Swap, labels)
		}
	}
	w.Header().Set("Content-Type", contentType)
	t.writeTo(w)
}

// swap tells how much swap a container uses, and may use.
func swap(t *text, s *v1alpha1.SwapStats, labels []string) {
	if s == nil {
		return
	}
	t.maybe("container_swap_usage_bytes", s.SwapUsageBytes, 1, s.Time.Time, labels...)
	if used, left := s.SwapUsageBytes, s.SwapAvailableBytes; used != nil && left != nil {
		t.add("container_swap_limit_bytes", float64(*used)+float64(*left), s.Time.Time, labels...)
	}
}

func use(t *text, what string, cpu *v1alpha1.CPUStats, memory *v1alpha1.MemoryStats, labels ...string) {
	if cpu != nil {
		t.maybe(what+"_cpu_usage_seconds_total", cpu.UsageCoreNanoSeconds, nano, cpu.Time.Time, labels...)
	}
	if memory != nil {
		t.maybe(what+"_memory_working_set_bytes", memory.WorkingSetBytes, 1, memory.Time.Time, labels...)
	}
}

// cadvisorPage has the names and labels that dashboards know from cAdvisor: as the runtime tells them (KEP-2371), and where it
// does not, what can be made of its statistics.
func (c *Collector) cadvisorPage(w http.ResponseWriter, r *http.Request) {
	if t, err := c.fromRuntime(r.Context()); err == nil {
		machine(t)
		w.Header().Set("Content-Type", contentType)
		t.writeTo(w)
		return
	} else if status.Code(err) != codes.Unimplemented {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	s, err := c.Summary(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	t := newText()
	for _, m := range []struct{ name, kind, help string }{
		{"container_cpu_usage_seconds_total", counter, "Cumulative cpu time consumed in seconds."},
		{"container_fs_usage_bytes", gauge, "Number of bytes that are consumed by the container on this filesystem."},
		{"container_memory_failures_total", counter, "Cumulative count of memory allocation failures."},
		{"container_memory_rss", gauge, "Size of RSS in bytes."},
		{"container_memory_usage_bytes", gauge, "Current memory usage in bytes, including all memory regardless of when it was accessed"},
		{"container_memory_working_set_bytes", gauge, "Current working set in bytes."},
		{"container_network_receive_bytes_total", counter, "Cumulative count of bytes received"},
		{"container_network_receive_errors_total", counter, "Cumulative count of errors encountered while receiving"},
		{"container_network_transmit_bytes_total", counter, "Cumulative count of bytes transmitted"},
		{"container_network_transmit_errors_total", counter, "Cumulative count of errors encountered while transmitting"},
		{"container_processes", gauge, "Number of processes running inside the container."},
		{"container_spec_cpu_period", gauge, "CPU period of the container."},
		{"container_spec_cpu_quota", gauge, "CPU quota of the container."},
		{"container_spec_memory_limit_bytes", gauge, "Memory limit for the container."},
		{"container_start_time_seconds", gauge, "Start time of the container since unix epoch in seconds."},
	} {
		t.describe(m.name, m.kind, m.help)
	}
	machine(t)
	specs := c.specs()
	for _, p := range s.Pods {
		cadvisorPod(t, p, specs)
	}
	w.Header().Set("Content-Type", contentType)
	t.writeTo(w)
}

// specs finds a container of a pod by the pod's UID and the container's name.
type specs map[string]*v1.Container

func (c *Collector) specs() specs {
	out := specs{}
	for _, p := range c.cfg.Pods() {
		for i := range p.Spec.InitContainers {
			out[string(p.UID)+"/"+p.Spec.InitContainers[i].Name] = &p.Spec.InitContainers[i]
		}
		for i := range p.Spec.Containers {
			out[string(p.UID)+"/"+p.Spec.Containers[i].Name] = &p.Spec.Containers[i]
		}
	}
	return out
}

func cadvisorPod(t *text, p v1alpha1.PodStats, specs specs) {
	id := "/kubepods/pod" + p.PodRef.UID
	labels := func(more ...string) []string {
		return append(more, "namespace", p.PodRef.Namespace, "pod", p.PodRef.Name)
	}
	cadvisorUse(t, p.CPU, p.Memory, labels("container", "", "id", id, "image", "", "name", ""))
	if n := p.Network; n != nil {
		for _, i := range n.Interfaces {
			l := labels("container", "", "id", id, "image", "", "interface", i.Name, "name", "")
			t.maybe("container_network_receive_bytes_total", i.RxBytes, 1, n.Time.Time, l...)
			t.maybe("container_network_receive_errors_total", i.RxErrors, 1, n.Time.Time, l...)
			t.maybe("container_network_transmit_bytes_total", i.TxBytes, 1, n.Time.Time, l...)
			t.maybe("container_network_transmit_errors_total", i.TxErrors, 1, n.Time.Time, l...)
		}
	}
	if ps := p.ProcessStats; ps != nil {
		t.maybe("container_processes", ps.ProcessCount, 1, time.Time{}, labels("container", "", "id", id, "image", "", "name", "")...)
	}
	for _, ct := range p.Containers {
		spec := specs[p.PodRef.UID+"/"+ct.Name]
		image := ""
		if spec != nil {
			image = spec.Image
		}
		l := labels("container", ct.Name, "id", id+"/"+ct.Name, "image", image, "name", ct.Name)
		cadvisorUse(t, ct.CPU, ct.Memory, l)
		t.add("container_start_time_seconds", float64(ct.StartTime.Unix()), time.Time{}, l...)
		if ct.Rootfs != nil {
			t.maybe("container_fs_usage_bytes", ct.Rootfs.UsedBytes, 1, ct.Rootfs.Time.Time, l...)
		}
		if spec != nil {
			cadvisorSpec(t, spec.Resources.Limits, l)
		}
	}
}

func cadvisorUse(t *text, cpu *v1alpha1.CPUStats, m *v1alpha1.MemoryStats, labels []string) {
	if cpu != nil {
		t.maybe("container_cpu_usage_seconds_total", cpu.UsageCoreNanoSeconds, nano, cpu.Time.Time, append([]string{"cpu", "total"}, labels...)...)
	}
	if m == nil {
		return
	}
	t.maybe("container_memory_working_set_bytes", m.WorkingSetBytes, 1, m.Time.Time, labels...)
	t.maybe("container_memory_usage_bytes", m.UsageBytes, 1, m.Time.Time, labels...)
	t.maybe("container_memory_rss", m.RSSBytes, 1, m.Time.Time, labels...)
	t.maybe("container_memory_failures_total", m.PageFaults, 1, m.Time.Time, append([]string{"failure_type", "pgfault", "scope", "container"}, labels...)...)
	t.maybe("container_memory_failures_total", m.MajorPageFaults, 1, m.Time.Time, append([]string{"failure_type", "pgmajfault", "scope", "container"}, labels...)...)
}

func cadvisorSpec(t *text, limits v1.ResourceList, labels []string) {
	if q := limits.Cpu(); !q.IsZero() {
		t.add("container_spec_cpu_period", 100000, time.Time{}, labels...)
		t.add("container_spec_cpu_quota", float64(q.MilliValue()*100), time.Time{}, labels...)
	}
	if q := limits.Memory(); !q.IsZero() {
		t.add("container_spec_memory_limit_bytes", float64(q.Value()), time.Time{}, labels...)
	}
}

// kubeletPage is about how much the kubelet looks after.
func (c *Collector) kubeletPage(w http.ResponseWriter, r *http.Request) {
	t := newText()
	t.describe("kubelet_node_name", gauge, "[ALPHA] The node's name. The count is always 1.")
	t.describe("kubelet_running_containers", gauge, "[ALPHA] Number of containers currently running")
	t.describe("kubelet_running_pods", gauge, "[ALPHA] Number of pods that have a running pod sandbox")
	t.describe("kubelet_metrics_provider", gauge, "[ALPHA] Metrics provider used by kubelet to collect container stats. Values can be 'cadvisor' and 'cri'")
	t.add("kubelet_metrics_provider", 1, time.Time{}, "provider", "cri")
	t.add("kubelet_node_name", 1, time.Time{}, "node", c.cfg.NodeName)
	states := map[string]int{"created": 0, "exited": 0, "running": 0}
	running := 0
	for _, p := range c.cfg.Pods() {
		if p.Status.Phase == v1.PodRunning {
			running++
		}
		for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			switch {
			case s.State.Running != nil:
				states["running"]++
			case s.State.Terminated != nil:
				states["exited"]++
			}
		}
	}
	t.add("kubelet_running_pods", float64(running), time.Time{})
	for state, n := range states {
		t.add("kubelet_running_containers", float64(n), time.Time{}, "container_state", state)
	}
	c.claims(r.Context(), t)
	w.Header().Set("Content-Type", contentType)
	t.writeTo(w)
}
