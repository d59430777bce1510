package tracing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/component-base/tracing/api/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// sink is a collector: an OTLP server that keeps what it is sent.
type sink struct {
	collector.UnimplementedTraceServiceServer
	mu       sync.Mutex
	spans    map[string]*otlp.Span // by name
	resource map[string]string
}

func (s *sink) Export(_ context.Context, r *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rs := range r.ResourceSpans {
		for _, a := range rs.Resource.Attributes {
			s.resource[a.Key] = a.Value.GetStringValue()
		}
		for _, ss := range rs.ScopeSpans {
			for _, span := range ss.Spans {
				s.spans[span.Name] = span
			}
		}
	}
	return &collector.ExportTraceServiceResponse{}, nil
}

// serve listens on the loopback for what register adds to a server.
func serve(t *testing.T, register func(*grpc.Server)) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	go server.Serve(l)
	t.Cleanup(server.Stop)
	return l.Addr().String()
}

// provider makes one that keeps so many spans in a million, and the collector that gets them when the provider is closed.
func provider(t *testing.T, perMillion int32) (*Provider, *sink) {
	s := &sink{spans: map[string]*otlp.Span{}, resource: map[string]string{}}
	address := serve(t, func(g *grpc.Server) { collector.RegisterTraceServiceServer(g, s) })
	p, err := New(&api.TracingConfiguration{Endpoint: &address, SamplingRatePerMillion: &perMillion}, "node1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p, s
}

// runtime answers Version and keeps what came with the question.
type runtime struct {
	cri.UnimplementedRuntimeServiceServer
	got string
}

func (r *runtime) Version(ctx context.Context, _ *cri.VersionRequest) (*cri.VersionResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.got = strings.Join(md.Get("traceparent"), ",")
	return &cri.VersionResponse{}, nil
}

const version = "runtime.v1.RuntimeService/Version"

// call asks the runtime through a connection that the provider traces.
func call(t *testing.T, ctx context.Context, p *Provider) (traceparent string) {
	r := &runtime{}
	address := serve(t, func(g *grpc.Server) { cri.RegisterRuntimeServiceServer(g, r) })
	conn, err := grpc.NewClient(address, append(p.Dial(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := cri.NewRuntimeServiceClient(conn).Version(ctx, &cri.VersionRequest{}); err != nil {
		t.Fatal(err)
	}
	return r.got
}

// get asks an HTTP server through a transport that the provider traces.
func get(t *testing.T, ctx context.Context, p *Provider) (traceparent string) {
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { traceparent = r.Header.Get("traceparent") }))
	defer server.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/api", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := p.Transport(http.DefaultTransport).RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	return traceparent
}

// TestPod: what a pass calls belongs to it, and the trace goes on at who is called.
func TestPod(t *testing.T) {
	p, s := provider(t, million)
	of := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u1"}}
	began := time.Now().Add(-time.Minute)
	ctx, done := p.Pods()(t.Context(), "syncPod", of, "create", began)
	byCall, byRequest := call(t, ctx, p), get(t, ctx, p)
	done(errors.New("no image"))
	_, done = p.Span(t.Context(), "Images/GarbageCollect")
	done(nil)
	p.Close()
	pass := s.spans["syncPod"]
	if pass == nil || pass.StartTimeUnixNano != uint64(began.UnixNano()) || pass.Status.GetMessage() != "no image" || len(pass.ParentSpanId) != 0 {
		t.Fatalf("the pass: %v", pass)
	}
	for key, want := range map[string]string{"k8s.pod": "ns/web", "k8s.pod.name": "web", "k8s.namespace.name": "ns", "k8s.pod.uid": "u1", "k8s.pod.update_type": "create"} {
		if got := text(pass, key); got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	for name, told := range map[string]string{version: byCall, "HTTP GET": byRequest} {
		span := s.spans[name]
		if span == nil || string(span.ParentSpanId) != string(pass.SpanId) || span.Kind != otlp.Span_SPAN_KIND_CLIENT {
			t.Errorf("%s is not part of the pass: %v", name, span)
			continue
		}
		if want := fmt.Sprintf("00-%x-%x-01", span.TraceId, span.SpanId); told != want {
			t.Errorf("%s told %q, want %q", name, told, want)
		}
	}
	if s.resource["service.name"] != "kubelet" || s.resource["host.name"] != "node1" || s.spans["Images/GarbageCollect"] == nil {
		t.Errorf("%v %v", s.resource, s.spans)
	}
}

func text(span *otlp.Span, key string) string {
	for _, a := range span.Attributes {
		if a.Key == key {
			return a.Value.GetStringValue()
		}
	}
	return ""
}

// TestSampling: what begins here is not kept without a rate, what belongs to a trace that is kept is, and the other way round.
func TestSampling(t *testing.T) {
	const kept, left = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
	for _, tc := range []struct {
		perMillion int32
		caller     string
		want       bool
	}{{0, "", false}, {0, kept, true}, {million, "", true}, {million, left, false}} {
		p, s := provider(t, tc.perMillion)
		mux := http.NewServeMux()
		mux.HandleFunc("/exec/{pod}", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, call(t, r.Context(), p), http.StatusTeapot)
		})
		req := httptest.NewRequest(http.MethodPost, "https://node1/exec/a?command=ls", nil)
		req.Header.Set("traceparent", tc.caller)
		w := httptest.NewRecorder()
		p.Handler(mux, false).ServeHTTP(w, req)
		p.Close()
		span := s.spans["/exec/{pod}"]
		if (span != nil) != tc.want || (s.spans[version] != nil) != tc.want {
			t.Errorf("%d in a million, caller %q: %v", tc.perMillion, tc.caller, s.spans)
		}
		if span == nil {
			continue
		}
		if tc.caller == kept && fmt.Sprintf("%x %x", span.TraceId, span.ParentSpanId) != "0af7651916cd43dd8448eb211c80319c b7ad6b7169203331" {
			t.Errorf("the request is not part of its caller's trace: %v", span)
		}
		if string(s.spans[version].ParentSpanId) != string(span.SpanId) {
			t.Error("the call is not part of the request")
		}
		if text(span, "url.path") != "/exec/a" || text(span, "http.route") != "/exec/{pod}" || strings.Contains(span.String(), "command") || span.Kind != otlp.Span_SPAN_KIND_SERVER {
			t.Errorf("%v", span)
		}
	}
}

// TestPublic: nobody who may ask anything makes the kubelet trace. A trace that is kept refers to theirs.
func TestPublic(t *testing.T) {
	for perMillion, want := range map[int32]bool{0: false, million: true} {
		p, s := provider(t, perMillion)
		req := httptest.NewRequest(http.MethodGet, "http://node1/healthz", nil)
		req.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
		p.Handler(http.NotFoundHandler(), true).ServeHTTP(httptest.NewRecorder(), req)
		p.Close()
		span := s.spans["kubelet"]
		if (span != nil) != want {
			t.Errorf("%d in a million: %v", perMillion, s.spans)
		}
		if span != nil && (len(span.ParentSpanId) != 0 || len(span.Links) != 1 || fmt.Sprintf("%x", span.Links[0].SpanId) != "b7ad6b7169203331") {
			t.Errorf("%v", span)
		}
	}
}

// TestStreams: a handler can still flush, and take the connection over.
func TestStreams(t *testing.T) {
	p, s := provider(t, million)
	mux := http.NewServeMux()
	mux.HandleFunc("/logs", func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		_, _ = io.WriteString(w, "line")
	})
	mux.HandleFunc("/exec", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n")
		conn.Close()
	})
	traced, handled := p.Handler(mux, false), make(chan struct{}, 2)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		traced.ServeHTTP(w, r)
		handled <- struct{}{}
	}))
	for path, want := range map[string]int{"/logs": http.StatusOK, "/exec": http.StatusSwitchingProtocols} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		if resp.Body.Close(); resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
		<-handled // a server does not wait for a connection that was taken over
	}
	server.Close()
	p.Close()
	for path, want := range map[string]int64{"/logs": http.StatusOK, "/exec": http.StatusSwitchingProtocols} {
		for _, a := range s.spans[path].GetAttributes() {
			if a.Key == "http.response.status_code" && a.Value.GetIntValue() != want {
				t.Errorf("%s: %v", path, a)
			}
		}
		if s.spans[path] == nil {
			t.Errorf("no span of %s", path)
		}
	}
}

// TestOff: a kubelet that does not trace wraps nothing.
func TestOff(t *testing.T) {
	p, err := New(nil, "node1", nil)
	if p != nil || err != nil {
		t.Fatal(p, err)
	}
	next := http.NotFoundHandler()
	if fmt.Sprintf("%p", p.Handler(next, true)) != fmt.Sprintf("%p", next) || p.Transport(http.DefaultTransport) != http.DefaultTransport {
		t.Error("what is not traced is wrapped")
	}
	if p.Dial() != nil || p.Pods() != nil {
		t.Error("there is something to trace with")
	}
	ctx, done := p.Span(t.Context(), "x")
	if done(nil); ctx != t.Context() {
		t.Error("another context")
	}
	p.Close()
}
