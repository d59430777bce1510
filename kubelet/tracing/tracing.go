// Package tracing sends OpenTelemetry spans of what the kubelet does to a collector (the field tracing of the configuration,
// KEP-2831). One trace shows the start of a pod from the worker's pass down to the calls of the runtime, and goes on in the
// runtime if that traces as well:
//
//	syncPod                                              a pass of the pod's worker that did something
//	├ HTTP GET                                           a request to the API server, for a token of a volume
//	├ runtime.v1.RuntimeService/RunPodSandbox            a call of CRI; its context goes along in gRPC metadata
//	├ runtime.v1.ImageService/PullImage
//	└ runtime.v1.RuntimeService/StartContainer …
//
// Requests to the kubelet's server continue the trace of whoever asked. Names and attributes are upstream's, and so is who
// decides what is kept: the span that a span belongs to, and for those that begin a trace samplingRatePerMillion.
//
// A nil Provider is one that is off. Its methods give what they got, so that nothing is wrapped and nothing is paid.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	api "k8s.io/component-base/tracing/api/v1"
)

// component is the kubelet's name in spans.
const component = "kubelet"

// million is what sampling rates are given in.
const million = 1_000_000

// closePatience bounds the sending of what is left.
const closePatience = 2 * time.Second

// Provider makes spans and sends them.
type Provider struct {
	spans  *sdktrace.TracerProvider
	tracer trace.Tracer
	log    *slog.Logger
}

// New makes a provider for the node, as the configuration says; nil means off, and gives nil. It does not connect yet: spans are
// dropped while the collector cannot be reached, which log is told.
func New(c *api.TracingConfiguration, node string, log *slog.Logger) (*Provider, error) {
	if c == nil {
		return nil, nil
	}
	// Without a service config DNS is not asked for one, which lasts so long on a node without DNS that the first spans are lost.
	options := []otlptracegrpc.Option{otlptracegrpc.WithInsecure(), otlptracegrpc.WithDialOption(grpc.WithDisableServiceConfig())}
	if c.Endpoint != nil {
		options = append(options, otlptracegrpc.WithEndpoint(*c.Endpoint))
	}
	ctx := context.Background()
	exporter, err := otlptracegrpc.New(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("tracing: %w", err)
	}
	about, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", component), attribute.String("host.name", node)))
	if err != nil {
		return nil, fmt.Errorf("tracing: describe this kubelet: %w", err)
	}
	// The library has one place for errors, of whatever provider; otherwise it writes them to stderr as it likes.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("tracing failed", "err", err) }))
	spans := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(about),
		sdktrace.WithSampler(sdktrace.ParentBased(sampler(c.SamplingRatePerMillion))))
	return &Provider{spans: spans, tracer: spans.Tracer("github.com/skiff-node/skiff/kubelet"), log: log}, nil
}

// sampler decides about spans that begin a trace. Without a rate none is kept.
func sampler(perMillion *int32) sdktrace.Sampler {
	if perMillion == nil || *perMillion <= 0 {
		return sdktrace.NeverSample()
	}
	return sdktrace.TraceIDRatioBased(float64(*perMillion) / million)
}

// Close sends what is left.
func (p *Provider) Close() {
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), closePatience)
	defer cancel()
	if err := p.spans.Shutdown(ctx); err != nil {
		p.log.Debug("the last spans were not sent", "err", err)
	}
}

// context is how a trace goes from one process to the next: the headers traceparent, tracestate and baggage.
func (p *Provider) context() propagation.TextMapPropagator {
	return propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{})
}

// Transport makes a span of each request that goes through next.
func (p *Provider) Transport(next http.RoundTripper) http.RoundTripper {
	if p == nil {
		return next
	}
	return transport{otelhttp.NewTransport(next, otelhttp.WithTracerProvider(p.spans), otelhttp.WithMeterProvider(noop.NewMeterProvider()),
		otelhttp.WithPropagators(p.context())), next}
}

// transport lets client-go find what is wrapped, which closes the connections of a certificate that has been renewed.
type transport struct {
	http.RoundTripper
	next http.RoundTripper
}

// WrappedRoundTripper is what client-go asks for.
func (t transport) WrappedRoundTripper() http.RoundTripper { return t.next }

// Dial has what a gRPC connection needs to make a span of each call.
func (p *Provider) Dial() []grpc.DialOption {
	if p == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithStatsHandler(otelgrpc.NewClientHandler(
		otelgrpc.WithTracerProvider(p.spans), otelgrpc.WithMeterProvider(noop.NewMeterProvider()), otelgrpc.WithPropagators(p.context())))}
}

// Span begins a span about the node. What is called at its end takes the error that it ended with, or nil.
func (p *Provider) Span(ctx context.Context, name string) (context.Context, func(error)) {
	if p == nil {
		return ctx, func(error) {}
	}
	ctx, span := p.tracer.Start(ctx, name)
	return ctx, func(err error) { end(span, err) }
}

// Pods begins spans about pods, as worker.Config takes it; nil when tracing is off.
func (p *Provider) Pods() func(ctx context.Context, name string, of *v1.Pod, update string, began time.Time) (context.Context, func(error)) {
	if p == nil {
		return nil
	}
	return p.pod
}

// pod begins the span of a pass of the pod's worker; update is why the pod is synced, empty when it is not to run any more.
func (p *Provider) pod(ctx context.Context, name string, of *v1.Pod, update string, began time.Time) (context.Context, func(error)) {
	about := []attribute.KeyValue{attribute.String("k8s.pod.uid", string(of.UID)), attribute.String("k8s.pod", of.Namespace+"/"+of.Name),
		attribute.String("k8s.pod.name", of.Name), attribute.String("k8s.namespace.name", of.Namespace)}
	if update != "" {
		about = append(about, attribute.String("k8s.pod.update_type", update))
	}
	ctx, span := p.tracer.Start(ctx, name, trace.WithTimestamp(began), trace.WithAttributes(about...))
	return ctx, func(err error) { end(span, err) }
}

func end(span trace.Span, err error) {
	if err != nil {
		span.RecordError(err)
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}
