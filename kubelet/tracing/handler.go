package tracing

import (
	"bufio"
	"cmp"
	"fmt"
	"net"
	"net/http"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Handler makes a span of each request, named by its route. The request belongs to the trace that it names, unless the
// server is public: then everybody could make the kubelet trace, and the span begins a trace of its own that only refers to the other.
//
// It is written here, for the library's brings code for each combination of interfaces that a ResponseWriter may have. The server
// speaks HTTP/1.1, where there is one.
func (p *Provider) Handler(next http.Handler, public bool) http.Handler {
	if p == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx := p.context().Extract(r.Context(), propagation.HeaderCarrier(r.Header))
		options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindServer), trace.WithAttributes(aboutRequest(r)...)}
		if caller := trace.SpanContextFromContext(ctx); public {
			options = append(options, trace.WithNewRoot())
			if caller.IsValid() {
				options = append(options, trace.WithLinks(trace.Link{SpanContext: caller}))
			}
		}
		ctx, span := p.tracer.Start(ctx, component, options...)
		defer span.End()
		r = r.WithContext(ctx)
		answer := &answer{ResponseWriter: w}
		next.ServeHTTP(answer, r)
		if r.Pattern != "" { // the mux has found the route
			span.SetName(r.Pattern)
			span.SetAttributes(attribute.String("http.route", r.Pattern))
		}
		code := cmp.Or(answer.code, http.StatusOK)
		span.SetAttributes(attribute.Int("http.response.status_code", code))
		if code >= http.StatusInternalServerError {
			span.SetStatus(codes.Error, "")
		}
	})
}

// aboutRequest tells of a request by the names of OpenTelemetry's conventions for HTTP servers. The query is left out, as
// upstream's: it has the commands that are executed.
func aboutRequest(r *http.Request) []attribute.KeyValue {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	about := []attribute.KeyValue{attribute.String("server.address", component), attribute.String("http.request.method", r.Method),
		attribute.String("url.scheme", scheme), attribute.String("url.path", r.URL.Path),
		attribute.String("network.protocol.version", fmt.Sprintf("%d.%d", r.ProtoMajor, r.ProtoMinor))}
	if host, port, err := net.SplitHostPort(r.RemoteAddr); err == nil {
		about = append(about, attribute.String("network.peer.address", host), attribute.String("client.address", host))
		if n, err := strconv.Atoi(port); err == nil {
			about = append(about, attribute.Int("network.peer.port", n))
		}
	}
	if agent := r.UserAgent(); agent != "" {
		about = append(about, attribute.String("user_agent.original", agent))
	}
	return about
}

// answer notes the code of a response.
type answer struct {
	http.ResponseWriter
	code int // zero until it is written
}

// WriteHeader implements http.ResponseWriter.
func (a *answer) WriteHeader(code int) {
	if a.code == 0 && code >= http.StatusOK { // what comes before are announcements
		a.code = code
	}
	a.ResponseWriter.WriteHeader(code)
}

// Flush implements http.Flusher, for logs that are followed.
func (a *answer) Flush() { _ = http.NewResponseController(a.ResponseWriter).Flush() }

// Hijack implements http.Hijacker, for streams: a connection that is taken over has switched protocols.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffer, err := http.NewResponseController(a.ResponseWriter).Hijack()
	if err == nil {
		a.code = cmp.Or(a.code, http.StatusSwitchingProtocols)
	}
	return conn, buffer, err
}

// Unwrap lets http.ResponseController reach the rest.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }
