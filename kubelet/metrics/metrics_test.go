package metrics

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestText(t *testing.T) {
	k := NewKubelet()
	k.Runtime("/runtime.v1.RuntimeService/RunPodSandbox", 20*time.Millisecond, nil)
	k.Runtime("/runtime.v1.RuntimeService/RunPodSandbox", time.Hour, errors.New("no"))
	k.Runtime("/runtime.v1.RuntimeService/UpdateContainerResources", time.Millisecond, nil)
	k.Evicted("memory.available")
	k.ClaimsInUse(func() map[string]int { return map[string]int{"<any>": 2, "gpu.example.com": 1} })
	k.ClaimsOperated("PrepareResources", "false", 110*time.Millisecond)
	k.DriverCalled("gpu.example.com", "/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources", "OK", time.Minute)
	var b strings.Builder
	k.Main.WriteText(&b)
	for _, want := range []string{
		"# TYPE kubelet_runtime_operations_total counter\n",
		`kubelet_runtime_operations_total{operation_type="run_podsandbox"} 2` + "\n",
		`kubelet_runtime_operations_total{operation_type="update_container"} 1` + "\n",
		`kubelet_runtime_operations_errors_total{operation_type="run_podsandbox"} 1` + "\n",
		`kubelet_runtime_operations_duration_seconds_bucket{operation_type="run_podsandbox",le="0.0125"} 0` + "\n",
		`kubelet_runtime_operations_duration_seconds_bucket{operation_type="run_podsandbox",le="0.03125"} 1` + "\n",
		`kubelet_runtime_operations_duration_seconds_bucket{operation_type="run_podsandbox",le="+Inf"} 2` + "\n",
		`kubelet_runtime_operations_duration_seconds_sum{operation_type="run_podsandbox"} 3600.02` + "\n",
		"# TYPE dra_resource_claims_in_use gauge\n" + `dra_resource_claims_in_use{driver_name="<any>"} 2` + "\n" +
			`dra_resource_claims_in_use{driver_name="gpu.example.com"} 1` + "\n",
		`dra_operations_duration_seconds_bucket{operation_name="PrepareResources",is_error="false",le="0.1534`,
		`dra_grpc_operations_duration_seconds_count{driver_name="gpu.example.com",method_name="/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/NodePrepareResources",grpc_status_code="OK"} 1` + "\n",
		`kubelet_evictions{eviction_signal="memory.available"} 1` + "\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
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
	if s := b.String(); strings.Contains(s, `pod_uid="u"`) || !strings.Contains(s,
		`prober_probe_total{container="a\"b",namespace="n",pod="p",pod_uid="v",probe_type="Liveness",result="successful"} 1`) {
		t.Error(s)
	}
	var none *Set
	none.WriteText(&b)
	none.Counter("x", "y").Inc()
	none.Histogram("x", "y", nil).Observe(time.Second)
}
