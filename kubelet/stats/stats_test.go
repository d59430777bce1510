package stats

import (
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

type cri struct {
	runtimeapi.RuntimeServiceClient
	runtimeapi.ImageServiceClient
	fail bool
	prom bool
}

func u(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }

func (c *cri) ListPodSandboxStats(context.Context, *runtimeapi.ListPodSandboxStatsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxStatsResponse, error) {
	if c.fail {
		return nil, errors.New("down")
	}
	labels := map[string]string{labelPodName: "web", labelNamespace: "ns", labelUID: "u1"}
	mine := map[string]string{labelContainer: "app"}
	at := time.Unix(1000, 0).UnixNano()
	box := func(id string) *runtimeapi.PodSandboxStats {
		return &runtimeapi.PodSandboxStats{Attributes: &runtimeapi.PodSandboxAttributes{Id: id, Labels: labels}, Linux: &runtimeapi.LinuxPodSandboxStats{
			Cpu:     &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: u(3e9)},
			Memory:  &runtimeapi.MemoryUsage{Timestamp: at, WorkingSetBytes: u(2048)},
			Network: &runtimeapi.NetworkUsage{Timestamp: at, DefaultInterface: &runtimeapi.NetworkInterfaceUsage{Name: "eth0", RxBytes: u(7)}},
			Process: &runtimeapi.ProcessUsage{ProcessCount: u(3)},
			Containers: []*runtimeapi.ContainerStats{{Attributes: &runtimeapi.ContainerAttributes{Id: "c1", Labels: mine},
				Cpu:           &runtimeapi.CpuUsage{Timestamp: at, UsageCoreNanoSeconds: u(15e8)},
				Memory:        &runtimeapi.MemoryUsage{Timestamp: at, WorkingSetBytes: u(1024), RssBytes: u(512)},
				WritableLayer: &runtimeapi.FilesystemUsage{UsedBytes: u(99)}}},
		}}
	}
	return &runtimeapi.ListPodSandboxStatsResponse{Stats: []*runtimeapi.PodSandboxStats{box("former"), box("s1")}}, nil
}

// The fake has metrics of its own only when prom says so, as older runtimes have none.
func (c *cri) ListMetricDescriptors(context.Context, *runtimeapi.ListMetricDescriptorsRequest, ...grpc.CallOption) (*runtimeapi.ListMetricDescriptorsResponse, error) {
	if !c.prom {
		return nil, status.Error(codes.Unimplemented, "not here")
	}
	return &runtimeapi.ListMetricDescriptorsResponse{Descriptors: []*runtimeapi.MetricDescriptor{
		{Name: "container_oom_events_total", Help: "Out of memory.", LabelKeys: []string{"pod", "container"}}, {Name: "container_threads", Help: "Threads.", LabelKeys: []string{"pod"}}}}, nil
}

func (c *cri) ListPodSandboxMetrics(context.Context, *runtimeapi.ListPodSandboxMetricsRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxMetricsResponse, error) {
	metric := func(name string, kind runtimeapi.MetricType, value uint64, labels ...string) *runtimeapi.Metric {
		return &runtimeapi.Metric{Name: name, MetricType: kind, LabelValues: labels, Value: u(value)}
	}
	return &runtimeapi.ListPodSandboxMetricsResponse{PodMetrics: []*runtimeapi.PodSandboxMetrics{{
		Metrics: []*runtimeapi.Metric{metric("container_threads", runtimeapi.MetricType_GAUGE, 4, "web"), metric("undescribed", runtimeapi.MetricType_GAUGE, 4)},
		ContainerMetrics: []*runtimeapi.ContainerMetrics{{Metrics: []*runtimeapi.Metric{
			metric("container_oom_events_total", runtimeapi.MetricType_COUNTER, 2, "web", "app"), metric("container_oom_events_total", runtimeapi.MetricType_COUNTER, 3, "too few")}}},
	}}}, nil
}

// TestRuntimeMetrics: what the runtime itself has for dashboards is shown as it is, if it can be.
func TestRuntimeMetrics(t *testing.T) {
	c, rt := newTest(t)
	rt.prom = true
	_, body := page(t, c, "/metrics/cadvisor")
	for _, want := range []string{"# HELP container_oom_events_total Out of memory.\n# TYPE container_oom_events_total counter\ncontainer_oom_events_total{pod=\"web\",container=\"app\"} 2\n",
		"# TYPE container_threads gauge\ncontainer_threads{pod=\"web\"} 4\n", "machine_cpu_cores{boot_id="} {
		if !strings.Contains(body, want) {
			t.Errorf("no %q in\n%s", want, body)
		}
	}
	if strings.Contains(body, "undescribed") || strings.Contains(body, "too few") || strings.Contains(body, "container_memory_working_set_bytes") {
		t.Errorf("more than there is:\n%s", body)
	}
}

func (c *cri) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "s1", CreatedAt: 5e9}}}, nil
}

func (c *cri) ListContainers(context.Context, *runtimeapi.ListContainersRequest, ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{{Id: "c1", CreatedAt: 65e8}}}, nil
}

func (c *cri) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"}, UsedBytes: u(42)}}}, nil
}

func newTest(t *testing.T) (*Collector, *cri) {
	t.Helper()
	rt := &cri{}
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u1"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app", Image: `im"age`,
		Resources: v1.ResourceRequirements{Limits: v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("1Mi")}}}}},
		Status: v1.PodStatus{Phase: v1.PodRunning, ContainerStatuses: []v1.ContainerStatus{{State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}}}
	seven := uint64(7)
	volumes := func(context.Context, types.UID) []v1alpha1.VolumeStats {
		return []v1alpha1.VolumeStats{{Name: "data", FsStats: v1alpha1.FsStats{UsedBytes: &seven}, PVCRef: &v1alpha1.PVCReference{Namespace: "ns", Name: "cargo"}}}
	}
	c, err := New(Config{NodeName: "n1", Root: "/", Runtime: rt, Images: rt, Pods: func() []*v1.Pod { return []*v1.Pod{pod} }, Volumes: volumes})
	if err != nil {
		t.Fatal(err)
	}
	return c, rt
}

func page(t *testing.T, c *Collector, path string) (int, string) {
	t.Helper()
	h := c.Pages()[strings.Split(path, "?")[0]]
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
	return w.Code, w.Body.String()
}

func TestSummary(t *testing.T) {
	c, rt := newTest(t)
	_, body := page(t, c, "/stats/summary")
	var s v1alpha1.Summary
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	if len(s.Pods) != 1 || s.Pods[0].PodRef.Name != "web" || s.Pods[0].StartTime.Unix() != 5 || *s.Pods[0].EphemeralStorage.UsedBytes != 99 ||
		*s.Pods[0].Containers[0].Memory.WorkingSetBytes != 1024 || *s.Pods[0].ProcessStats.ProcessCount != 3 || s.Pods[0].Network.Name != "eth0" {
		t.Errorf("pods %+v", s.Pods)
	}
	n := s.Node
	if n.NodeName != "n1" || *n.CPU.UsageCoreNanoSeconds == 0 || *n.Memory.WorkingSetBytes == 0 || *n.Fs.CapacityBytes == 0 ||
		*n.Runtime.ImageFs.UsedBytes != 42 || *n.Rlimit.NumOfRunningProcesses == 0 || n.StartTime.IsZero() {
		t.Errorf("node %+v", n)
	}
	if _, body := page(t, c, "/stats/summary?only_cpu_and_memory=true"); strings.Contains(body, "imageFs") || !strings.Contains(body, "workingSetBytes") {
		t.Errorf("only cpu and memory: %s", body)
	}
	rt.fail = true
	if code, _ := page(t, c, "/stats/summary"); code != 500 {
		t.Errorf("code %d", code)
	}
}

func TestMetrics(t *testing.T) {
	c, rt := newTest(t)
	for path, want := range map[string][]string{
		"/metrics/resource": {
			"# TYPE container_cpu_usage_seconds_total counter\ncontainer_cpu_usage_seconds_total{container=\"app\",namespace=\"ns\",pod=\"web\"} 1.5 1000000\n",
			"container_memory_working_set_bytes{container=\"app\",namespace=\"ns\",pod=\"web\"} 1024 1000000\n",
			"container_start_time_seconds{container=\"app\",namespace=\"ns\",pod=\"web\"} 6.5\n",
			"pod_cpu_usage_seconds_total{namespace=\"ns\",pod=\"web\"} 3 1000000\n",
			"node_cpu_usage_seconds_total ", "resource_scrape_error 0\n"},
		"/metrics/cadvisor": {
			`container_cpu_usage_seconds_total{cpu="total",container="app",id="/kubepods/podu1/app",image="im\"age",name="app",namespace="ns",pod="web"} 1.5 1000000`,
			`container_network_receive_bytes_total{container="",id="/kubepods/podu1",image="",interface="eth0",name="",namespace="ns",pod="web"} 7`,
			`container_spec_cpu_quota{container="app",`, `container_spec_memory_limit_bytes{`, "machine_cpu_cores{boot_id="},
		"/metrics": {`kubelet_node_name{node="n1"} 1`, "kubelet_running_pods 1\n", `kubelet_running_containers{container_state="running"} 1`,
			`kubelet_metrics_provider{provider="cri"} 1`, `kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="cargo"} 7`},
		"/stats/summary": {`"name": "data"`, `"usedBytes": 7`},
	} {
		_, body := page(t, c, path)
		for _, line := range want {
			if !strings.Contains(body, line) {
				t.Errorf("%s: no %q in\n%s", path, line, body)
			}
		}
	}
	rt.fail = true
	if _, body := page(t, c, "/metrics/resource"); !strings.Contains(body, "resource_scrape_error 1\n") || !strings.Contains(body, "node_memory_working_set_bytes ") {
		t.Errorf("without a runtime:\n%s", body)
	}
}

func TestRate(t *testing.T) {
	c := &Collector{}
	t0 := time.Unix(100, 0)
	if c.rate(t0, 5e9) != nil {
		t.Error("a rate from one sample")
	}
	if got := c.rate(t0.Add(2*time.Second), 6e9); *got != 5e8 {
		t.Errorf("rate %d", *got)
	}
	if got := c.rate(t0.Add(2100*time.Millisecond), 7e9); *got != 5e8 {
		t.Errorf("soon after: %d", *got)
	}
}

func TestParsers(t *testing.T) {
	if got, ok := cpuNanos("cpu  1 2 3 4 5 6 7 8 9 10\ncpu0"); !ok || got != uint64(27*10*time.Millisecond) {
		t.Errorf("cpu %d %v", got, ok)
	}
	if got := table("MemTotal:  2 kB\npgfault 7\nbad\n"); got["MemTotal"] != 2048 || got["pgfault"] != 7 || len(got) != 2 {
		t.Errorf("table %v", got)
	}
	routes := "Iface Destination Gateway Flags RefCnt Use Metric Mask\nlo 0000007F 0 1 0 0 0 FF\neth1 00000000 0102A8C0 3 0 0 0 00000000 0\n"
	if got := defaultInterface(routes); got != "eth1" {
		t.Errorf("interface %q", got)
	}
}

// disks is a runtime whose images and layers lie in two directories.
type disks struct {
	cri
	images, layers string
}

func (d *disks) ImageFsInfo(context.Context, *runtimeapi.ImageFsInfoRequest, ...grpc.CallOption) (*runtimeapi.ImageFsInfoResponse, error) {
	at := func(path string) []*runtimeapi.FilesystemUsage {
		if path == "" {
			return nil
		}
		return []*runtimeapi.FilesystemUsage{{FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: path}}}
	}
	return &runtimeapi.ImageFsInfoResponse{ImageFilesystems: at(d.images), ContainerFilesystems: at(d.layers)}, nil
}

// TestFileSystems compares directories of one file system with those of others.
func TestFileSystems(t *testing.T) {
	root := t.TempDir()
	for _, tc := range []struct {
		images, layers string
		same           [2]bool // images with the node's files, layers with images
		fails          bool
	}{
		{root, root, [2]bool{true, true}, false},
		{root, "", [2]bool{true, true}, false},
		{"/proc", "/proc", [2]bool{false, true}, false},
		{"/proc", root, [2]bool{false, false}, false},
		{root + "/missing", "", [2]bool{}, true},
		{"", "", [2]bool{}, true},
	} {
		c, err := New(Config{Root: root, Runtime: &cri{}, Images: &disks{images: tc.images, layers: tc.layers}})
		if err != nil {
			t.Fatal(err)
		}
		f, err := c.FileSystems(t.Context())
		if (err != nil) != tc.fails {
			t.Errorf("%+v: %v", tc, err)
		}
		if err == nil && [2]bool{f.Images == f.Node, f.Layers == f.Images} != tc.same {
			t.Errorf("%+v: %+v", tc, f)
		}
	}
}
