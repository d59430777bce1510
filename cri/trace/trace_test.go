package trace

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	otelcodes "go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"

	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/runtimeservice"
)

const run = "/runtime.v1.RuntimeService/RunPodSandbox"

// callWithStep has a table of calls make the spans, as the server does.
func callWithStep(ctx context.Context, t *Tracer, failure error) {
	table := calls.New(slog.New(slog.DiscardHandler))
	table.Tell(nil, t)
	ctx, end := table.Begin(ctx, calls.Request{Method: run, About: []slog.Attr{slog.String("pod", "a/b")}})
	_, done := runtimeservice.Step(ctx, "attach the network")
	done(failure)
	end(failure)
}

func TestSpans(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	tracer := build(Config{Ratio: 1}, sdktrace.WithSpanProcessor(recorder))
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"))
	callWithStep(ctx, tracer, errors.New("no address"))
	spans := recorder.Ended()
	if len(spans) != 2 {
		t.Fatalf("%d spans", len(spans))
	}
	step, call := spans[0], spans[1]
	if call.Name() != "runtime.v1.RuntimeService/RunPodSandbox" || call.Parent().SpanID().String() != "b7ad6b7169203331" ||
		call.SpanContext().TraceID().String() != "0af7651916cd43dd8448eb211c80319c" {
		t.Errorf("the call does not continue the client's trace: %s, parent %s", call.Name(), call.Parent().SpanID())
	}
	if step.Name() != "attach the network" || step.Parent().SpanID() != call.SpanContext().SpanID() || step.Status().Code != otelcodes.Error {
		t.Errorf("step: %s, parent %s, %v", step.Name(), step.Parent().SpanID(), step.Status())
	}
	attrs := map[string]string{}
	for _, a := range call.Attributes() {
		attrs[string(a.Key)] = a.Value.Emit()
	}
	if attrs["rpc.method"] != "RunPodSandbox" || attrs["skiff.pod"] != "a/b" || attrs["rpc.grpc.status_code"] != "2" {
		t.Errorf("%v", attrs)
	}
}

// TestSampling: a trace that the client does not keep is not kept here, whatever the ratio.
func TestSampling(t *testing.T) {
	recorder := tracetest.NewSpanRecorder()
	tracer := build(Config{Ratio: 1}, sdktrace.WithSpanProcessor(recorder))
	ctx := metadata.NewIncomingContext(t.Context(), metadata.Pairs("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"))
	callWithStep(ctx, tracer, nil)
	callWithStep(t.Context(), build(Config{Ratio: 0}, sdktrace.WithSpanProcessor(recorder)), nil)
	if spans := recorder.Ended(); len(spans) != 0 {
		t.Errorf("%v", spans)
	}
}

// TestExport sends spans to a collector over HTTP.
func TestExport(t *testing.T) {
	var got []string
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		request := &collector.ExportTraceServiceRequest{}
		if err != nil || proto.Unmarshal(body, request) != nil {
			t.Errorf("%s: %v", r.URL, err)
		}
		got = append(got, names(request)...)
	}))
	defer server.Close()
	tracer, err := New(t.Context(), Config{Endpoint: strings.TrimPrefix(server.URL, "http://"), Protocol: HTTP, Ratio: 1})
	if err != nil {
		t.Fatal(err)
	}
	callWithStep(t.Context(), tracer, nil)
	if err := tracer.Close(); err != nil {
		t.Fatal(err)
	}
	if strings.Join(got, ", ") != "attach the network, runtime.v1.RuntimeService/RunPodSandbox" {
		t.Errorf("%v", got)
	}
}

// receiver is a collector that speaks gRPC.
type receiver struct {
	collector.UnimplementedTraceServiceServer
	mu    sync.Mutex
	spans []string
}

func (r *receiver) Export(_ context.Context, request *collector.ExportTraceServiceRequest) (*collector.ExportTraceServiceResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.spans = append(r.spans, names(request)...)
	return &collector.ExportTraceServiceResponse{}, nil
}

func TestExportGRPC(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, r := grpc.NewServer(), &receiver{}
	collector.RegisterTraceServiceServer(server, r)
	go func() { _ = server.Serve(listener) }()
	defer server.Stop()
	tracer, err := New(t.Context(), Config{Endpoint: listener.Addr().String(), Protocol: GRPC, Ratio: 1})
	if err != nil {
		t.Fatal(err)
	}
	callWithStep(t.Context(), tracer, nil)
	if err := tracer.Close(); err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if strings.Join(r.spans, ", ") != "attach the network, runtime.v1.RuntimeService/RunPodSandbox" {
		t.Errorf("%v", r.spans)
	}
}

func names(request *collector.ExportTraceServiceRequest) (out []string) {
	for _, resource := range request.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			for _, span := range scope.Spans {
				out = append(out, span.Name)
			}
		}
	}
	return out
}

func TestUnknownProtocol(t *testing.T) {
	if _, err := New(t.Context(), Config{Endpoint: "x:1", Protocol: "carrier pigeon"}); err == nil || !strings.Contains(err.Error(), "carrier pigeon") {
		t.Errorf("%v", err)
	}
}
