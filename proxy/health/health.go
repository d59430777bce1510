// Package health answers /healthz and /livez of the proxy, as kube-proxy does on port 10256: healthy means that what the
// API said has been programmed, or is younger than twice the sync period.
package health

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// limit is how long a change may wait before the proxy counts as unhealthy.
const limit = time.Minute

// Server keeps the times and serves them.
type Server struct {
	mu      sync.Mutex
	pending time.Time // since when a change waits; zero: none
	updated time.Time
	started bool
}

// Pending says that a change came.
func (s *Server) Pending() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pending.IsZero() {
		s.pending = time.Now()
	}
}

// Synced says that all changes so far are in the kernel.
func (s *Server) Synced() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending, s.updated, s.started = time.Time{}, time.Now(), true
}

func (s *Server) healthy(now time.Time) (bool, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started && (s.pending.IsZero() || now.Sub(s.pending) < limit), s.updated
}

// Run serves on the address until ctx ends. An empty address serves nothing.
func (s *Server) Run(ctx context.Context, addr string) error {
	if addr == "" {
		<-ctx.Done()
		return nil
	}
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return fmt.Errorf("healthzBindAddress: %w", err)
	}
	mux := http.NewServeMux()
	for _, path := range []string{"/healthz", "/livez"} {
		mux.HandleFunc("GET "+path, s.answer)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func (s *Server) answer(w http.ResponseWriter, _ *http.Request) {
	ok, updated := s.healthy(time.Now())
	w.Header().Set("Content-Type", "application/json")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(map[string]any{"lastUpdated": updated, "currentTime": time.Now(), "nodeEligible": true})
}
