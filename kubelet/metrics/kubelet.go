package metrics

import (
	"math"
	"net/http"
	"sync"
	"time"
)

// Kubelet are the kubelet's metrics: for /metrics, those of its probes for /metrics/probes, and those of its health checks for
// /metrics/slis. All have upstream's names and buckets. Its parts are what the kubelet's parts are given.
type Kubelet struct {
	Main, Probes, Health Set

	Runtime *Runtime
	Pods    *Pods
	Resizes *Resizes
	Events  *Events
	Node    *Node
	Volumes *Volumes
	Server  *Server
	API     *API
	Devices *Devices

	probes          *Counter
	probed          sync.Map // [2]string of namespace and name of the pods that have been probed, by UID
	probeDuration   *Histogram
	checks          *Counter
	healthy         *Gauge
	process         http.Handler
	claims, drivers *Histogram // operations on resource claims, and calls to their drivers
}

// defaults are Prometheus' usual bounds of durations in seconds.
var defaults = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}

// starts are upstream's bounds of how long pods take to start.
var starts = []float64{.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

// NewKubelet makes all of them.
func NewKubelet() *Kubelet {
	k := &Kubelet{}
	k.process = newProcess()
	k.Runtime, k.Pods, k.Resizes = newRuntime(&k.Main), newPods(&k.Main), newResizes(&k.Main)
	k.Runtime.pods = k.Pods
	k.Events, k.Node, k.Volumes = newEvents(&k.Main), newNode(&k.Main), newVolumes(&k.Main)
	k.Server, k.API = newServer(&k.Main), newAPI(&k.Main)
	claims := Buckets(.1, math.Pow(40/.1, 1./14), 15)
	k.claims = k.Main.Histogram("dra_operations_duration_seconds", "[ALPHA] Latency histogram in seconds for the duration of handling all ResourceClaims referenced by a pod when the pod starts or stops.", claims)
	k.drivers = k.Main.Histogram("dra_grpc_operations_duration_seconds", "[ALPHA] Duration in seconds of the DRA gRPC operations", claims)
	k.Devices = newDevices(&k.Main)
	k.probes = k.Probes.Counter("prober_probe_total", "[BETA] Cumulative number of a liveness, readiness or startup probe for a container by result.")
	k.probeDuration = k.Probes.Histogram("prober_probe_duration_seconds", "[ALPHA] Duration in seconds for a probe response.", defaults)
	k.healthy = k.Health.Gauge("kubernetes_healthcheck", "[STABLE] This metric records the result of a single healthcheck.")
	k.checks = k.Health.Counter("kubernetes_healthchecks_total", "[STABLE] This metric records the results of all healthcheck.")
	return k
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
	if _, ok := k.probed.Load(p.UID); !ok {
		k.probed.Store(p.UID, [2]string{p.Namespace, p.Pod})
	}
	k.probes.Inc("container", p.Container, "namespace", p.Namespace, "pod", p.Pod, "pod_uid", p.UID, "probe_type", p.Kind, "result", p.Result)
	k.probeDuration.Observe(p.Took, "container", p.Container, "namespace", p.Namespace, "pod", p.Pod, "probe_type", p.Kind)
}

// Forget drops what is about a pod that is gone.
func (k *Kubelet) Forget(uid string) {
	k.Probes.Forget("pod_uid", uid)
	if name, ok := k.probed.LoadAndDelete(uid); ok { // durations are told by the pod's name
		name := name.([2]string)
		k.probeDuration.Forget("namespace", name[0], "pod", name[1])
	}
	k.Pods.forget(uid)
}

// Checked takes in the result of a health check of that name (KEP-3466).
func (k *Kubelet) Checked(name string, err error) {
	status, value := "success", 1.0
	if err != nil {
		status, value = "error", 0
	}
	k.healthy.Set(value, "name", name, "type", "healthz")
	k.checks.Inc("name", name, "status", status, "type", "healthz")
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
	k.Main.Read("dra_resource_claims_in_use", "[ALPHA] The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across all drivers (special value <any> for driver_name).", func(emit Emit) {
		for driver, n := range count() {
			emit(float64(n), "driver_name", driver)
		}
	})
}

// Pages add the metrics to the pages that are measured.
func (k *Kubelet) Pages(measured map[string]http.Handler) map[string]http.Handler {
	main := measured["/metrics"]
	text := func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	}
	measured["/metrics"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text(w)
		main.ServeHTTP(w, r)
		k.Main.WriteText(w)
		k.process.ServeHTTP(w, r)
	})
	measured["/metrics/probes"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { text(w); k.Probes.WriteText(w) })
	measured["/metrics/slis"] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { text(w); k.Health.WriteText(w) })
	return measured
}
