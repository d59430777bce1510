// Package trace makes OpenTelemetry spans of CRI calls and their steps, and sends them to a collector by OTLP. The
// span of a call is a child of the span that the client sends along (W3C trace context in gRPC metadata): with an
// upstream kubelet that traces, one trace shows the pod's start from the kubelet's sync down to our steps.
package trace

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	otelcodes "go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/cri/calls"
)

// The protocols of OTLP, by the names of OTEL_EXPORTER_OTLP_PROTOCOL.
const (
	GRPC = "grpc"
	HTTP = "http/protobuf"
)

// Config says where spans go.
type Config struct {
	Endpoint string // host:port of the collector. Required
	Protocol string // GRPC or HTTP. Required
	TLS      bool   // with the system's certificate authorities
	// Ratio is the share of traces that is kept, of those that begin here. What a client's trace says is respected.
	Ratio   float64
	Version string
}

// Tracer implements calls.Tracer.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// New makes a tracer. It does not connect yet: spans are dropped while the collector cannot be reached.
func New(ctx context.Context, c Config) (*Tracer, error) {
	exporter, err := export(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("trace to %s: %w", c.Endpoint, err)
	}
	return build(c, sdktrace.WithBatcher(exporter)), nil
}

func build(c Config, to sdktrace.TracerProviderOption) *Tracer {
	provider := sdktrace.NewTracerProvider(to,
		sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(c.Ratio))),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "skiff-cri"), attribute.String("service.version", c.Version),
		)),
	)
	return &Tracer{provider: provider, tracer: provider.Tracer("github.com/skiff-node/skiff/cri")}
}

func export(ctx context.Context, c Config) (sdktrace.SpanExporter, error) {
	switch c.Protocol {
	case GRPC:
		options := []otlptracegrpc.Option{otlptracegrpc.WithEndpoint(c.Endpoint)}
		if !c.TLS {
			options = append(options, otlptracegrpc.WithInsecure())
		}
		return otlptracegrpc.New(ctx, options...)
	case HTTP:
		options := []otlptracehttp.Option{otlptracehttp.WithEndpoint(c.Endpoint)}
		if !c.TLS {
			options = append(options, otlptracehttp.WithInsecure())
		}
		return otlptracehttp.New(ctx, options...)
	}
	return nil, fmt.Errorf("unknown protocol %q; there are %q and %q", c.Protocol, GRPC, HTTP)
}

// closePatience bounds the sending of what is left.
const closePatience = 3 * time.Second

// Close sends what is left.
func (t *Tracer) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		return fmt.Errorf("send the last spans: %w", err)
	}
	return nil
}

// Call implements calls.Tracer.
func (t *Tracer) Call(ctx context.Context, method string, about []slog.Attr) (context.Context, func(error)) {
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		ctx = propagation.TraceContext{}.Extract(ctx, carrier(md))
	}
	name := strings.TrimPrefix(method, "/")
	var attrs []attribute.KeyValue
	if !strings.HasPrefix(method, calls.Session) {
		service, short, _ := strings.Cut(name, "/")
		attrs = append(attrs, attribute.String("rpc.system", "grpc"), attribute.String("rpc.service", service), attribute.String("rpc.method", short))
	}
	for _, a := range about {
		attrs = append(attrs, attribute.String("skiff."+a.Key, a.Value.String()))
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(attrs...))
	return ctx, func(err error) {
		span.SetAttributes(attribute.Int("rpc.grpc.status_code", int(status.Code(err))))
		end(span, err)
	}
}

// Step implements calls.Tracer.
func (t *Tracer) Step(ctx context.Context, name string) (context.Context, func(error)) {
	ctx, span := t.tracer.Start(ctx, name)
	return ctx, func(err error) { end(span, err) }
}

func end(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(otelcodes.Error, err.Error())
	}
	span.End()
}

// carrier reads trace context from gRPC metadata.
type carrier metadata.MD

func (c carrier) Get(key string) string {
	if values := metadata.MD(c).Get(key); len(values) > 0 {
		return values[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { metadata.MD(c).Set(key, value) }

func (c carrier) Keys() []string {
	var out []string
	for key := range c {
		out = append(out, key)
	}
	return out
}
