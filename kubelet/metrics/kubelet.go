package metrics

import (
	"math"
	"strings"
	"time"
	"unicode"
)

// Kubelet are the kubelet's metrics, for /metrics, and those of its probes, for /metrics/probes.
type Kubelet struct {
	Main, Probes Set

	runtime, runtimeErrors *Counter
	runtimeDuration        *Histogram
	probes                 *Counter
	probeDuration          *Histogram
	requests, evictions    *Counter
	podStart, podWorker    *Histogram
	claims, drivers        *Histogram // operations on resource claims, and calls to their drivers
}

// NewKubelet makes all of them, with upstream's names and buckets.
func NewKubelet() *Kubelet {
	k := &Kubelet{}
	k.runtime = k.Main.Counter("kubelet_runtime_operations_total", "[ALPHA] Cumulative number of runtime operations by operation type.")
	k.runtimeErrors = k.Main.Counter("kubelet_runtime_operations_errors_total", "[ALPHA] Cumulative number of runtime operation errors by operation type.")
	k.runtimeDuration = k.Main.Histogram("kubelet_runtime_operations_duration_seconds",
		"[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.", Buckets(.005, 2.5, 14))
	k.requests = k.Main.Counter("kubelet_http_requests_total", "[ALPHA] Number of the http requests received since the server started")
	k.evictions = k.Main.Counter("kubelet_evictions", "[ALPHA] Cumulative number of pod evictions by eviction signal")
	k.podStart = k.Main.Histogram("kubelet_pod_start_duration_seconds",
		"[ALPHA] Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", []float64{.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600})
	k.podWorker = k.Main.Histogram("kubelet_pod_worker_duration_seconds",
		"[ALPHA] Duration in seconds to sync a single pod. Broken down by operation type: create, update, or sync", Buckets(.005, 2, 12))
	claims := Buckets(.1, math.Pow(40/.1, 1./14), 15)
	k.claims = k.Main.Histogram("dra_operations_duration_seconds", "[ALPHA] Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops.", claims)
	k.drivers = k.Main.Histogram("dra_grpc_operations_duration_seconds", "[ALPHA] Duration in seconds of the DRA gRPC operations", claims)
	k.probes = k.Probes.Counter("prober_probe_total", "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.")
	k.probeDuration = k.Probes.Histogram("prober_probe_duration_seconds", "[ALPHA] Duration in seconds for a probe response.", Buckets(.005, 2, 12))
	return k
}

// Runtime counts a call of CRI, given by its method's full name.
func (k *Kubelet) Runtime(method string, took time.Duration, err error) {
	op := operation(method)
	k.runtime.Inc("operation_type", op)
	k.runtimeDuration.Observe(took, "operation_type", op)
	if err != nil {
		k.runtimeErrors.Inc("operation_type", op)
	}
}

// operation is upstream's name of a CRI method: /runtime.v1.RuntimeService/RunPodSandbox is run_podsandbox.
func operation(method string) string {
	name := method[strings.LastIndexByte(method, '/')+1:]
	name = strings.ReplaceAll(name, "PodSandbox", "Podsandbox")
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	if b.String() == "update_container_resources" {
		return "update_container"
	}
	return b.String()
}

// Probe is one check of a probe.
type Probe struct {
	Kind, Container, Pod, Namespace, UID string
	// Result is successful, failed or unknown.
	Result string
	Took   time.Duration
}

// Probed counts a check.
func (k *Kubelet) Probed(p Probe) {
	k.probes.Inc("container", p.Container, "namespace", p.Namespace, "pod", p.Pod, "pod_uid", p.UID, "probe_type", p.Kind, "result", p.Result)
	k.probeDuration.Observe(p.Took, "container", p.Container, "namespace", p.Namespace, "pod", p.Pod, "probe_type", p.Kind)
}

// Forget drops what is about a pod that is gone.
func (k *Kubelet) Forget(uid string) { k.Probes.Forget("pod_uid", uid) }

// Request counts a request to the server.
func (k *Kubelet) Request(method, path string, long bool) {
	k.requests.Inc("long_running", map[bool]string{true: "true", false: "false"}[long], "method", method, "path", path, "server_type", "readwrite")
}

// ClaimsOperated takes in how long it took to prepare or unprepare (PrepareResources, UnprepareResources) the claims of a pod.
func (k *Kubelet) ClaimsOperated(operation, failed string, took time.Duration) {
	k.claims.Observe(took, "operation_name", operation, "is_error", failed)
}

// DriverCalled takes in a call to a DRA driver, by the method's full name and the gRPC status.
func (k *Kubelet) DriverCalled(driver, method, code string, took time.Duration) {
	k.drivers.Observe(took, "driver_name", driver, "method_name", method, "grpc_status_code", code)
}

// ClaimsInUse adds the number of prepared claims by driver, as count tells it.
func (k *Kubelet) ClaimsInUse(count func() map[string]int) {
	k.Main.Gauge("dra_resource_claims_in_use", "[ALPHA] The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across all drivers (special value <any> for driver_name).", "driver_name", count)
}

// Evicted counts an evicted pod.
func (k *Kubelet) Evicted(signal string) { k.evictions.Inc("eviction_signal", signal) }

// PodStarted takes in how long a pod took from being seen to running.
func (k *Kubelet) PodStarted(took time.Duration) { k.podStart.Observe(took) }

// Pass takes in how long one look at a pod took; operation is create, sync or terminated.
func (k *Kubelet) Pass(operation string, took time.Duration) {
	k.podWorker.Observe(took, "operation_type", operation)
}
