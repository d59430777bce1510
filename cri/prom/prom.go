// Package prom shows what the CRI server does as Prometheus metrics. Counts and times of calls come from the table of
// calls; what there is (sandboxes, containers, images) is looked up when somebody scrapes.
//
// The grpc_server_… metrics have the names and labels of go-grpc-prometheus, as with containerd; all others begin with
// skiff_cri_. README.md of cri lists them.
package prom

import (
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri/calls"
)

// Metrics counts calls (calls.Meter) and serves what it has counted.
type Metrics struct {
	registry *prometheus.Registry
	streams  map[string]bool // methods that stream their answer, by full name

	started, handled, stepErrors, stuck, sessions *prometheus.CounterVec
	handling, steps                               *prometheus.HistogramVec
	openSessions                                  *prometheus.GaugeVec
}

// buckets are in seconds: from what a call costs that only reads memory, to what the kubelet grants a pod's start.
var buckets = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 240}

// New makes empty metrics. What else there is to know comes from extra.
func New(version string, extra ...prometheus.Collector) (*Metrics, error) {
	m := &Metrics{
		registry: prometheus.NewRegistry(), streams: streams(),
		started: counter("grpc_server_started_total", "Total number of RPCs started on the server.", "grpc_method", "grpc_service", "grpc_type"),
		handled: counter("grpc_server_handled_total", "Total number of RPCs completed on the server, regardless of success or failure.",
			"grpc_code", "grpc_method", "grpc_service", "grpc_type"),
		handling: histogram("grpc_server_handling_seconds", "Histogram of response latency (seconds) of gRPC that had been application-level handled by the server.",
			"grpc_method", "grpc_service", "grpc_type"),
		steps:        histogram("skiff_cri_step_seconds", "Time that the steps of CRI calls took.", "call", "step"),
		stepErrors:   counter("skiff_cri_step_errors_total", "Steps of CRI calls that failed.", "call", "step"),
		stuck:        counter("skiff_cri_stuck_calls_total", "Calls that the watchdog has named.", "call"),
		sessions:     counter("skiff_cri_sessions_total", "Exec, attach and port-forward sessions that have ended.", "kind", "code"),
		openSessions: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "skiff_cri_open_sessions", Help: "Exec, attach and port-forward sessions that are open."}, []string{"kind"}),
	}
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "skiff_cri_build_info", Help: "Always 1; the version is a label.", ConstLabels: prometheus.Labels{"version": version},
	})
	build.Set(1)
	all := append([]prometheus.Collector{
		m.started, m.handled, m.handling, m.steps, m.stepErrors, m.stuck, m.sessions, m.openSessions, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	}, extra...)
	for _, c := range all {
		if err := m.registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
}

func histogram(name, help string, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
}

// streams are CRI's methods that answer with a stream.
func streams() map[string]bool {
	out := map[string]bool{}
	for _, s := range runtimeapi.RuntimeService_ServiceDesc.Streams {
		out["/"+runtimeapi.RuntimeService_ServiceDesc.ServiceName+"/"+s.StreamName] = true
	}
	for _, s := range runtimeapi.ImageService_ServiceDesc.Streams {
		out["/"+runtimeapi.ImageService_ServiceDesc.ServiceName+"/"+s.StreamName] = true
	}
	return out
}

// labels are method, service and type of a gRPC call, in the order of the labels' names.
func (m *Metrics) labels(method string) []string {
	service, name, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	kind := "unary"
	if m.streams[method] {
		kind = "server_stream"
	}
	return []string{name, service, kind}
}

// Began implements calls.Meter.
func (m *Metrics) Began(method string) {
	if kind, session := strings.CutPrefix(method, calls.Session); session {
		m.openSessions.WithLabelValues(kind).Inc()
		return
	}
	m.started.WithLabelValues(m.labels(method)...).Inc()
}

// Ended implements calls.Meter.
func (m *Metrics) Ended(method string, err error, took time.Duration) {
	if kind, session := strings.CutPrefix(method, calls.Session); session {
		m.openSessions.WithLabelValues(kind).Dec()
		m.sessions.WithLabelValues(kind, calls.Code(err)).Inc()
		return
	}
	labels := m.labels(method)
	m.handled.WithLabelValues(append([]string{calls.Code(err)}, labels...)...).Inc()
	m.handling.WithLabelValues(labels...).Observe(took.Seconds())
}

// Step implements calls.Meter.
func (m *Metrics) Step(method, step string, err error, took time.Duration) {
	m.steps.WithLabelValues(calls.Name(method), step).Observe(took.Seconds())
	if err != nil {
		m.stepErrors.WithLabelValues(calls.Name(method), step).Inc()
	}
}

// Stuck implements calls.Meter.
func (m *Metrics) Stuck(method string) { m.stuck.WithLabelValues(calls.Name(method)).Inc() }

// Handler serves the metrics in the format that the client prefers.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true, ErrorHandling: promhttp.ContinueOnError})
}
