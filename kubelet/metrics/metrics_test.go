package metrics

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/kubelet/configuration"
)

// has asks that the set shows these lines.
func has(t *testing.T, s *Set, lines ...string) {
	t.Helper()
	var b strings.Builder
	s.WriteText(&b)
	for _, want := range lines {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestText(t *testing.T) {
	k := NewKubelet()
	r := k.Runtime
	r.Called("/runtime.v1.RuntimeService/RunPodSandbox", 20*time.Millisecond, nil)
	r.Called("/runtime.v1.RuntimeService/RunPodSandbox", time.Hour, errors.New("no"))
	r.Called("/runtime.v1.RuntimeService/UpdateContainerResources", time.Millisecond, nil)
	k.Pods.Evicted("memory.available")
	k.ClaimsInUse(func() map[string]int { return map[string]int{"<any>": 2, "gpu.example.com": 1} })
	k.ClaimsOperated("PrepareResources", "false", 110*time.Millisecond)
	k.Devices.Registered("x.y/z")
	k.Devices.Admitted(2*time.Millisecond, errors.New("no"))
	k.Devices.CPUs(nil)
	k.DriverCalled("gpu.example.com", "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources", "OK", time.Minute)
	has(t, &k.Main,
		"# TYPE kubelet_runtime_operations_total counter",
		`kubelet_runtime_operations_total{operation_type="run_podsandbox"} 2`,
		`kubelet_runtime_operations_total{operation_type="update_container"} 1`,
		`kubelet_runtime_operations_errors_total{operation_type="run_podsandbox"} 1`,
		`kubelet_runtime_operations_duration_seconds_bucket{operation_type="run_podsandbox",le="0.0125"} 0`,
		`kubelet_runtime_operations_duration_seconds_bucket{operation_type="run_podsandbox",le="0.03125"} 1`,
		`kubelet_runtime_operations_duration_seconds_bucket{operation_type="run_podsandbox",le="+Inf"} 2`,
		`kubelet_runtime_operations_duration_seconds_sum{operation_type="run_podsandbox"} 3600.02`,
		`kubelet_evictions{eviction_signal="memory.available"} 1`,
		"# TYPE dra_resource_claims_in_use gauge", `dra_resource_claims_in_use{driver_name="<any>"} 2`, `dra_resource_claims_in_use{driver_name="gpu.example.com"} 1`,
		`dra_operations_duration_seconds_bucket{operation_name="PrepareResources",is_error="false",le="39.99999999999997"} 1`,
		`dra_grpc_operations_duration_seconds_count{driver_name="gpu.example.com",method_name="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",grpc_status_code="OK"} 1`,
		`kubelet_device_plugin_registration_total{resource_name="x.y/z"} 1`, "kubelet_topology_manager_admission_errors_total 1",
		`kubelet_topology_manager_admission_duration_ms_bucket{le="1.6"} 0`, `kubelet_topology_manager_admission_duration_ms_bucket{le="3.2"} 1`,
		"kubelet_cpu_manager_pinning_requests_total 1", "kubelet_memory_manager_pinning_errors_total 0",
		"kubelet_pleg_discard_events 0")
	var b strings.Builder
	k.Main.WriteText(&b)
	if strings.Contains(b.String(), "http_requests") {
		t.Error("a metric without samples")
	}
}

func TestForget(t *testing.T) {
	k := NewKubelet()
	for _, uid := range []string{"u", "v"} {
		k.Probed(Probe{Kind: "Liveness", Container: `a"b`, Pod: "p", Namespace: "n", UID: uid, Result: "successful", Took: time.Millisecond})
	}
	k.Forget("u")
	var b strings.Builder
	k.Probes.WriteText(&b)
	if s := b.String(); strings.Contains(s, `pod_uid="u"`) || strings.Contains(s, "prober_probe_duration_seconds_count{") || !strings.Contains(s,
		`prober_probe_total{container="a\"b",namespace="n",pod="p",pod_uid="v",probe_type="Liveness",result="successful"} 1`) {
		t.Error(s)
	}
	var none *Set
	none.WriteText(&b)
	none.Counter("x", "y").Inc()
	none.Total("x", "y").Inc()
	none.Gauge("x", "y").Set(1)
	none.Read("x", "y", nil)
	none.Histogram("x", "y", nil).Observe(time.Second)
}

func TestPodStart(t *testing.T) {
	k := NewKubelet()
	p := &v1.Pod{}
	p.UID, p.CreationTimestamp = "u", metav1.NewTime(time.Now().Add(-100*time.Second))
	at := time.Now().Add(-90 * time.Second)
	// Two pulls of 20 s that overlap by 10, and an init container of 40 s: 30 s are the node's own.
	k.Pods.pulled("u", at, at.Add(20*time.Second))
	k.Pods.pulled("u", at.Add(10*time.Second), at.Add(30*time.Second))
	st := &v1.PodStatus{InitContainerStatuses: []v1.ContainerStatus{{State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		StartedAt: metav1.NewTime(at), FinishedAt: metav1.NewTime(at.Add(40 * time.Second))}}}}}
	k.Pods.Running(p, st, 95*time.Second)
	stateful := p.DeepCopy()
	stateful.Spec.Volumes = []v1.Volume{{VolumeSource: v1.VolumeSource{PersistentVolumeClaim: &v1.PersistentVolumeClaimVolumeSource{}}}}
	k.Pods.Running(stateful, st, time.Second)
	fromFile := &v1.Pod{}
	k.Pods.Running(fromFile, st, time.Second)
	has(t, &k.Main,
		`kubelet_pod_start_sli_duration_seconds_bucket{le="20"} 0`, `kubelet_pod_start_sli_duration_seconds_bucket{le="45"} 1`, "kubelet_pod_start_sli_duration_seconds_count 1",
		`kubelet_pod_start_total_duration_seconds_bucket{le="120"} 2`, "kubelet_pod_start_total_duration_seconds_count 2", "kubelet_pod_start_duration_seconds_count 3")
}

func TestTerminated(t *testing.T) {
	k := NewKubelet()
	running := v1.ContainerState{Running: &v1.ContainerStateRunning{}}
	ended := v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: 137, Reason: "OOMKilled"}}
	waiting := v1.ContainerState{Waiting: &v1.ContainerStateWaiting{}}
	old := &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "a", State: running}, {Name: "b", State: running}, {Name: "c", State: ended}},
		InitContainerStatuses: []v1.ContainerStatus{{Name: "i", State: running}}}
	now := &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{{Name: "a", State: ended}, {Name: "b", State: waiting, LastTerminationState: ended}, {Name: "c", State: ended}},
		InitContainerStatuses: []v1.ContainerStatus{{Name: "i", State: running}}}
	k.Pods.Changed(old, now)
	k.Pods.Changed(now, now)
	has(t, &k.Main, `kubelet_terminated_containers_total{container_type="container",exit_code="137",reason="OOMKilled"} 2`)
}

func TestCensus(t *testing.T) {
	k := NewKubelet()
	k.Census(func() []Count {
		return []Count{{Static: true, Lifecycle: "sync", Config: "desired", Active: true}, {Lifecycle: "terminated", Config: "desired", Ephemeral: 2},
			{Lifecycle: "terminating", Config: "orphan", Active: true}}
	})
	k.VolumeCensus(func() map[string]int { return map[string]int{"kubernetes.io/secret": 2} }, func() map[string]int { return map[string]int{"kubernetes.io/secret": 1} })
	k.PullRecords(func() (int, int) { return 1, 2 })
	k.PodCertificates(func() map[Signed]int { return map[Signed]int{{"example.org/s", "fresh"}: 3} })
	k.Runtime.MustPull("mustAuthenticate")
	has(t, &k.Main, "kubelet_imagemanager_ondisk_pullintents 1", "kubelet_imagemanager_ondisk_pulledrecords 2",
		`kubelet_podcertificate_states{signer_name="example.org/s",state="fresh"} 3`, `kubelet_imagemanager_image_mustpull_checks_total{result="mustAuthenticate"} 1`)
	k.About("v1.37.2", map[string]configuration.Gate{"X": {Enabled: true, Stage: "BETA"}})
	has(t, &k.Main, `kubelet_active_pods{static=""} 1`, `kubelet_active_pods{static="true"} 1`, `kubelet_desired_pods{static=""} 1`, "kubelet_mirror_pods 1",
		`kubelet_working_pods{config="orphan",lifecycle="terminating",static=""} 1`, `kubelet_working_pods{config="orphan",lifecycle="sync",static="true"} 0`,
		"kubelet_managed_ephemeral_containers 2",
		`volume_manager_total_volumes{plugin_name="kubernetes.io/secret",state="desired_state_of_world"} 2`,
		`kubernetes_feature_enabled{name="X",stage="BETA"} 1`)
}

func TestResizes(t *testing.T) {
	k := NewKubelet()
	of := func(cpu, memory string) *v1.Pod {
		p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}}}}}
		r := &p.Spec.Containers[0].Resources
		r.Requests[v1.ResourceCPU] = resource.MustParse(cpu)
		if memory != "" {
			r.Limits[v1.ResourceMemory] = resource.MustParse(memory)
		}
		return p
	}
	k.Resizes.Requested(of("1", ""), of("2", "1Gi"))
	k.Resizes.Requested(of("2", "1Gi"), of("1", "1Gi"))
	high := int32(200_000)
	p := &v1.Pod{Spec: v1.PodSpec{Priority: &high}}
	k.Resizes.Resolved(p, "accepted", 7*time.Second)
	k.Resizes.Done(200*time.Millisecond, nil)
	k.ResizeCensus(func() []Standing { return []Standing{{Pod: p, Pending: "deferred"}, {Pod: p, InProgress: true}} })
	has(t, &k.Main,
		`kubelet_container_requested_resizes_total{operation="increase",requirement="requests",resource="cpu"} 1`,
		`kubelet_container_requested_resizes_total{operation="decrease",requirement="requests",resource="cpu"} 1`,
		`kubelet_container_requested_resizes_total{operation="add",requirement="limits",resource="memory"} 1`,
		`kubelet_pod_deferred_resize_duration_seconds_bucket{priority_bucket="high",resolution="accepted",le="10"} 1`,
		`kubelet_pod_resize_duration_milliseconds_bucket{success="true",le="500"} 1`,
		`kubelet_pod_pending_resizes{priority_bucket="high",reason="deferred"} 1`, "kubelet_pod_in_progress_resizes 1")
}

// TestEvents: without a stream the watch was last seen with the last list, with one it is seen now.
func TestEvents(t *testing.T) {
	k := NewKubelet()
	now := time.Unix(1000, 0)
	if got := k.Events.seen(now); got != 0 {
		t.Errorf("before anything: %v", got)
	}
	k.Events.listed = time.Unix(900, 0)
	if got := k.Events.seen(now); got != 900 {
		t.Errorf("listed: %v", got)
	}
	k.Events.Streaming(true)
	if got := k.Events.seen(now); got != 1000 {
		t.Errorf("streaming: %v", got)
	}
	k.Events.Streaming(false)
	k.Events.Listed(time.Second)
	has(t, &k.Main, "kubelet_evented_pleg_connection_success_count 1", "kubelet_evented_pleg_connection_error_count 1",
		"kubelet_pleg_relist_duration_seconds_count 1", "kubelet_pleg_relist_interval_seconds_count 1")
}

func TestNodeStartup(t *testing.T) {
	k := NewKubelet()
	k.Node.Ready() // of a node that was there before: nothing is known of its making
	has(t, &k.Main, "kubelet_node_startup_duration_seconds 0")
	k.Node.boot = k.Node.began.Add(-time.Minute)
	k.Node.Registering()
	k.Node.Registered()
	k.Node.Ready()
	has(t, &k.Main, "kubelet_node_startup_pre_kubelet_duration_seconds 60")
	var b strings.Builder
	k.Main.WriteText(&b)
	if strings.Contains(b.String(), "kubelet_node_startup_duration_seconds 0\n") {
		t.Error("no duration in total")
	}
}

func TestRequests(t *testing.T) {
	k := NewKubelet()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	client := &http.Client{Transport: k.API.Wrap(http.DefaultTransport)}
	for _, query := range []string{"", "?watch=true"} {
		resp, err := client.Get(server.URL + query)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	host := strings.TrimPrefix(server.URL, "http://")
	done := k.Server.Request(httptest.NewRequest(http.MethodGet, "/pods", nil))
	has(t, &k.Main, `rest_client_requests_total{code="404",host="`+host+`",method="GET"} 2`, `rest_client_request_duration_seconds_count{host="`+host+`",verb="GET"} 1`,
		`kubelet_http_inflight_requests{long_running="false",method="GET",path="pods",server_type="readwrite"} 1`)
	done()
	has(t, &k.Main, `kubelet_http_inflight_requests{long_running="false",method="GET",path="pods",server_type="readwrite"} 0`,
		`kubelet_http_requests_duration_seconds_count{long_running="false",method="GET",path="pods",server_type="readwrite"} 1`)
}

func TestPages(t *testing.T) {
	k := NewKubelet()
	k.Checked("ping", nil)
	k.Checked("syncloop", errors.New("no"))
	pages := k.Pages(map[string]http.Handler{"/metrics": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("measured 1\n")) })})
	for path, want := range map[string][]string{
		"/metrics":      {"measured 1\n", "go_goroutines ", "process_resident_memory_bytes ", "kubelet_started_pods_total 0\n"},
		"/metrics/slis": {`kubernetes_healthcheck{name="ping",type="healthz"} 1`, `kubernetes_healthchecks_total{name="syncloop",status="error",type="healthz"} 1`},
	} {
		w := httptest.NewRecorder()
		pages[path].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		for _, text := range want {
			if !strings.Contains(w.Body.String(), text) {
				t.Errorf("%s has no %q:\n%s", path, text, w.Body)
			}
		}
	}
}

func TestSizeClass(t *testing.T) {
	for bytes, want := range map[uint64]string{0: "0-10MB", 10 << 20: "10MB-100MB", 3 << 30: "1GB-5GB", 1 << 40: "GT100GB"} {
		if got := sizeClass(bytes); got != want {
			t.Errorf("%d: %s, want %s", bytes, got, want)
		}
	}
}

// TestUnknownRequests: requests that name what there is not, as strangers may send them, are counted together.
func TestUnknownRequests(t *testing.T) {
	k := NewKubelet()
	for i := range 100 {
		k.Server.Request(httptest.NewRequest("M"+strconv.Itoa(i), "/x"+strconv.Itoa(i)+"/y", nil))()
	}
	for _, path := range []string{"/metrics/cadvisor", "/metrics/z", "/exec/n/p/c"} {
		k.Server.Request(httptest.NewRequest(http.MethodGet, path, nil))()
	}
	w := httptest.NewRecorder()
	k.Main.WriteText(w)
	var got []string
	for line := range strings.Lines(w.Body.String()) {
		if strings.HasPrefix(line, "kubelet_http_requests_total{") {
			got = append(got, strings.TrimSpace(strings.TrimPrefix(line, "kubelet_http_requests_total")))
		}
	}
	slices.Sort(got)
	want := []string{
		`{long_running="false",method="GET",path="metrics/cadvisor",server_type="readwrite"} 1`,
		`{long_running="false",method="GET",path="other",server_type="readwrite"} 1`,
		`{long_running="false",method="other",path="other",server_type="readwrite"} 100`,
		`{long_running="true",method="GET",path="exec",server_type="readwrite"} 1`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
