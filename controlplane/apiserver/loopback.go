package apiserver

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"sync"

	"k8s.io/client-go/rest"
)

const (
	// loopbackHost is the host of loopback requests; nothing listens there.
	loopbackHost = "http://apiserver.loopback"
	// loopbackChunk is how much of a response is collected before its reader gets it, unless it is flushed earlier.
	loopbackChunk = 32 << 10
)

// loopback is an http.RoundTripper that calls the server's handler in this process: the informers and controllers beside the
// server pay neither for TLS nor for HTTP framing. Requests pass the whole chain of filters, as from outside.
//
//	caller ── RoundTrip ──▶ goroutine: handler.ServeHTTP(response, request)
//	   ▲                                      │ header, then chunks
//	   └────────── Response{Body} ◀── pipe ───┘
//
// The goroutine ends with the handler; a reader that closes the body, or a context that ends, ends the handler.
type loopback struct {
	handler http.Handler
	// assembled is closed once handler is set.
	assembled chan struct{}
}

func newLoopback() *loopback { return &loopback{assembled: make(chan struct{})} }

// serve lets waiting requests through.
func (m *loopback) serve(h http.Handler) {
	m.handler = h
	close(m.assembled)
}

// config is a client configuration over m, with a token that only this process knows.
func (m *loopback) config() *rest.Config {
	return &rest.Config{
		Host:          loopbackHost,
		BearerToken:   rand.Text(),
		Transport:     m,
		ContentConfig: rest.ContentConfig{ContentType: "application/vnd.kubernetes.protobuf", AcceptContentTypes: "application/vnd.kubernetes.protobuf,application/json"},
		QPS:           -1, Burst: -1,
		DisableCompression: true,
	}
}

// RoundTrip implements http.RoundTripper.
func (m *loopback) RoundTrip(r *http.Request) (*http.Response, error) {
	select {
	case <-m.assembled:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	ctx, cancel := context.WithCancel(r.Context())
	in := r.Clone(ctx)
	in.RequestURI, in.RemoteAddr, in.Host = r.URL.RequestURI(), "127.0.0.1:0", r.URL.Host
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/2.0", 2, 0
	if in.Body == nil {
		in.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	w := &memoryResponse{header: http.Header{}, started: make(chan struct{}), pipe: writer, ctx: ctx}
	// A reader that waits for a chunk learns of the end of its context at once, whatever the handler does.
	stop := context.AfterFunc(ctx, func() { reader.CloseWithError(ctx.Err()) })
	go func() {
		defer stop()
		defer in.Body.Close()
		w.run(m.handler, in)
	}()
	select {
	case <-w.started:
	case <-ctx.Done():
		cancel()
		return nil, ctx.Err()
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", w.code, http.StatusText(w.code)), StatusCode: w.code, Proto: in.Proto, ProtoMajor: 2,
		Header: w.sent, Body: &memoryBody{reader, cancel}, ContentLength: -1, Request: r,
	}, nil
}

// memoryBody ends the handler when it is closed.
type memoryBody struct {
	*io.PipeReader
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (b *memoryBody) Close() error {
	b.cancel()
	return b.PipeReader.Close()
}

// memoryResponse is the handler's side of a response.
type memoryResponse struct {
	header  http.Header
	once    sync.Once
	started chan struct{}
	// code and sent are set before started is closed.
	code int
	sent http.Header
	buf  bytes.Buffer
	pipe *io.PipeWriter
	ctx  context.Context //nolint:containedctx // of the one request that this answers
}

// run calls the handler and ends the response as a server would: a panic cuts it off.
func (w *memoryResponse) run(h http.Handler, r *http.Request) {
	var failed error
	func() {
		defer func() {
			if p := recover(); p != nil {
				failed = fmt.Errorf("loopback: the handler gave up: %v", p)
			}
		}()
		h.ServeHTTP(w, r)
		w.Flush()
	}()
	if failed != nil {
		w.WriteHeader(http.StatusInternalServerError)
	}
	_ = w.pipe.CloseWithError(failed)
}

// Header implements http.ResponseWriter.
func (w *memoryResponse) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *memoryResponse) WriteHeader(code int) {
	w.once.Do(func() {
		w.code, w.sent = code, w.header.Clone()
		close(w.started)
	})
}

// CloseNotify implements http.CloseNotifier. The server's filters take a writer without it for one that cannot flush.
func (w *memoryResponse) CloseNotify() <-chan bool {
	c := make(chan bool, 1)
	context.AfterFunc(w.ctx, func() { c <- true })
	return c
}

// Write implements http.ResponseWriter.
func (w *memoryResponse) Write(p []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	w.buf.Write(p)
	if w.buf.Len() >= loopbackChunk {
		return len(p), w.FlushError()
	}
	return len(p), nil
}

// Flush implements http.Flusher.
func (w *memoryResponse) Flush() { _ = w.FlushError() }

// FlushError hands the reader what was written; it waits until that is read.
func (w *memoryResponse) FlushError() error {
	w.WriteHeader(http.StatusOK)
	if w.buf.Len() == 0 {
		return nil
	}
	_, err := w.pipe.Write(w.buf.Bytes())
	w.buf.Reset()
	return err
}
