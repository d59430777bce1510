package metrics

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Server counts requests to the kubelet's server.
type Server struct {
	requests  *Counter
	took      *Histogram
	inflight  *Gauge
	websocket *Counter
}

func newServer(s *Set) *Server {
	return &Server{
		requests:  s.Counter("kubelet_http_requests_total", "[ALPHA] Number of the http requests received since the server started"),
		took:      s.Histogram("kubelet_http_requests_duration_seconds", "[ALPHA] Duration in seconds to serve http requests", defaults),
		inflight:  s.Gauge("kubelet_http_inflight_requests", "[ALPHA] Number of the inflight http requests"),
		websocket: s.Counter("kubelet_websocket_streaming_requests_total", "[ALPHA] Total number of WebSocket streaming requests (exec/attach/portforward) received by the kubelet."),
	}
}

// Request counts a request, and returns what is to be called at its end. It may come from anybody: what it names is counted only
// if it is known, else as other, so that nobody fills the memory with names.
func (m *Server) Request(r *http.Request) (done func()) {
	path, method := known(r.URL.Path), r.Method
	if !slices.Contains(methods, method) {
		method = "other"
	}
	labels := []string{"long_running", strconv.FormatBool(slices.Contains(long, path)), "method", method, "path", path, "server_type", "readwrite"}
	m.requests.Inc(labels...)
	m.inflight.Add(1, labels...)
	if strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
		m.websocket.Inc("subresource", strings.ToLower(path))
	}
	began := time.Now()
	return func() {
		m.inflight.Add(-1, labels...)
		m.took.Observe(time.Since(began), labels...)
	}
}

// What is counted by its name, upstream's lists; long are the paths of requests that last.
var (
	methods = []string{"OPTIONS", "GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT"}
	paths   = []string{"allocatedPods", "attach", "checkpoint", "configz", "containerLogs", "debug", "exec", "flagz", "healthz", "logs", "metrics",
		"metrics/cadvisor", "metrics/probes", "metrics/resource", "pods", "portForward", "pprof", "run", "runningpods", "stats", "statusz"}
	long = []string{"exec", "attach", "portForward", "debug"}
)

// known is the first part of a path, of metrics the first two, or other.
func known(path string) string {
	parts := strings.SplitN(strings.TrimPrefix(path, "/"), "/", 3)
	name := parts[0]
	if name == "metrics" && len(parts) > 1 {
		name += "/" + parts[1]
	}
	if !slices.Contains(paths, name) {
		return "other"
	}
	return name
}

// API counts the kubelet's requests to the API server. They are counted where they are sent, so that other clients in the
// same process count for themselves.
type API struct {
	requests *Counter
	took     *Histogram
}

func newAPI(s *Set) *API {
	return &API{
		requests: s.Counter("rest_client_requests_total", "[ALPHA] Number of HTTP requests, partitioned by status code, method, and host."),
		took: s.Histogram("rest_client_request_duration_seconds", "[ALPHA] Request latency in seconds. Broken down by verb, and host.",
			[]float64{.005, .025, .1, .25, .5, 1, 2, 4, 8, 15, 30, 60}),
	}
}

// Wrap counts what goes through next.
func (a *API) Wrap(next http.RoundTripper) http.RoundTripper { return counted{a, next} }

type counted struct {
	*API
	next http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (c counted) RoundTrip(r *http.Request) (*http.Response, error) {
	began := time.Now()
	resp, err := c.next.RoundTrip(r)
	code := "<error>"
	if err == nil {
		code = strconv.Itoa(resp.StatusCode)
	}
	c.requests.Inc("code", code, "host", r.URL.Host, "method", r.Method)
	if !watch(r.URL) {
		c.took.Observe(time.Since(began), "host", r.URL.Host, "verb", r.Method)
	}
	return resp, err
}

// WrappedRoundTripper lets client-go find what is wrapped.
func (c counted) WrappedRoundTripper() http.RoundTripper { return c.next }

func watch(u *url.URL) bool { return strings.Contains(u.RawQuery, "watch=true") }
