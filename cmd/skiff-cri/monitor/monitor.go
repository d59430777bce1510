// Package monitor serves what people look at: Prometheus metrics, and on a unix socket Go's pprof and the calls in
// flight. What is switched off has no listener and costs nothing; it may be switched on and off while the server runs.
package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/skiff-node/skiff/cri/calls"
)

// Endpoint is a listener that can be moved. The zero value, with a Name, listens nowhere.
type Endpoint struct {
	Name string // for errors and the log
	Mode fs.FileMode
	Log  *slog.Logger

	mu      sync.Mutex
	address string
	server  *http.Server
	served  sync.WaitGroup
}

// Move serves handler at address, host:port or unix:///path, and no more where it served before. "" serves nowhere.
// When the new place cannot be had, the old one stays.
func (e *Endpoint) Move(address string, handler http.Handler) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if address == e.address {
		return nil
	}
	var listener net.Listener
	if address != "" {
		var err error
		if listener, err = e.listen(address); err != nil {
			return fmt.Errorf("serve %s: %w", e.Name, err)
		}
	}
	e.close()
	e.address = address
	if listener == nil {
		return nil
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	e.server = server
	e.served.Go(func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			e.Log.Error("the server of "+e.Name+" has ended", "error", err)
		}
	})
	e.Log.Info("serving "+e.Name, "address", listener.Addr().String())
	return nil
}

func (e *Endpoint) listen(address string) (net.Listener, error) {
	path, unix := strings.CutPrefix(address, "unix://")
	if !unix {
		return net.Listen("tcp", address)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	// A socket that is there was left by a killed process: the lock of the run directory lets live one at a time.
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, e.Mode); err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

func (e *Endpoint) close() {
	if e.server != nil {
		_ = e.server.Close()
		e.served.Wait()
		e.server = nil
	}
}

// Close serves no more.
func (e *Endpoint) Close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.close()
	e.address = ""
}

// Metrics serves the handler under /metrics.
func Metrics(h http.Handler) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", h)
	return mux
}

// Debug serves /calls and /debug/pprof/.
func Debug(table *calls.Table) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(table.InFlight()) // the client has left
	})
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}

// Calls asks the server on the debug socket for its calls in flight.
func Calls(ctx context.Context, socket string) ([]calls.Status, error) {
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://debug/calls", nil)
	if err != nil {
		return nil, err
	}
	reply, err := client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask for the calls in flight: %w", err)
	}
	defer reply.Body.Close()
	var out []calls.Status
	if err := json.NewDecoder(reply.Body).Decode(&out); err != nil || reply.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("ask %s for the calls in flight: %s: %w", socket, reply.Status, err)
	}
	return out, nil
}
