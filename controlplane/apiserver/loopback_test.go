package apiserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestLoopback checks what a server promises its clients: headers, streaming, cancellation both ways, and a cut response
// where the handler panics.
func TestLoopback(t *testing.T) {
	ended := make(chan error, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Method", r.Method)
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.Copy(w, r.Body)
	})
	mux.HandleFunc("/empty", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		for range 1000 {
			_, _ = io.WriteString(w, strings.Repeat("x", 1000))
		}
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "first")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		ended <- r.Context().Err()
	})
	mux.HandleFunc("/panic", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, strings.Repeat("x", loopbackChunk))
		panic(http.ErrAbortHandler)
	})
	l := newLoopback()
	c := &http.Client{Transport: l}

	early, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(early, http.MethodGet, loopbackHost+"/empty", http.NoBody)
	if _, err := c.Do(req); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before the server is assembled: %v", err)
	}
	l.serve(mux)

	resp, err := c.Post(loopbackHost+"/echo", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusTeapot || resp.Header.Get("X-Method") != http.MethodPost || string(body) != "hello" || err != nil {
		t.Errorf("echo: %d %v %q %v", resp.StatusCode, resp.Header, body, err)
	}
	if resp, err := c.Get(loopbackHost + "/empty"); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("empty: %v", err)
	}
	resp, err = c.Get(loopbackHost + "/large")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, resp.Body); n != 1_000_000 || err != nil {
		t.Errorf("large: %d %v", n, err)
	}
	resp, err = c.Get(loopbackHost + "/stream")
	if err != nil {
		t.Fatal(err)
	}
	first := make([]byte, 5)
	if _, err := io.ReadFull(resp.Body, first); err != nil || string(first) != "first" {
		t.Errorf("stream: %q %v", first, err)
	}
	resp.Body.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a closed body ends the handler: %v", err)
	}
	resp, err = c.Get(loopbackHost + "/panic")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err == nil {
		t.Error("a panic looks like the end of the response")
	}
}
