package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Report is what the server says of itself on its status socket, and line by line to the command that started it.
type Report struct {
	Version    string    `json:"version"`
	Pid        int       `json:"pid"`
	Started    time.Time `json:"started"`
	Node       string    `json:"node"`
	Ready      bool      `json:"ready"`
	Error      string    `json:"error,omitempty"` // why the server ended
	Components []Status  `json:"components"`
}

// Progress writes one JSON object a line to the command that waits for the start. Errors are of no interest: that
// command may have gone.
type Progress struct{ enc *json.Encoder }

// NewProgress writes to w; nil discards.
func NewProgress(w io.Writer) *Progress {
	if w == nil {
		w = io.Discard
	}
	return &Progress{enc: json.NewEncoder(w)}
}

// Changed tells of a component.
func (p *Progress) Changed(s Status) { p.enc.Encode(Report{Components: []Status{s}}) }

// Done tells the end of the start: ready, or the error.
func (p *Progress) Done(err error) {
	if err != nil {
		p.enc.Encode(Report{Error: err.Error()})
		return
	}
	p.enc.Encode(Report{Ready: true})
}

// Lock makes this process the only server of a run directory, until it ends.
func Lock(runDir string) (*os.File, error) {
	if err := os.MkdirAll(runDir, 0o755); err != nil {
		return nil, fmt.Errorf("make the run directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(runDir, "server.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the run directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("another skiff server runs on %s (see `skiff status`)", runDir)
	}
	return f, nil
}

// StatusSocket is the path of the status socket in a run directory.
func StatusSocket(runDir string) string { return filepath.Join(runDir, "server.sock") }

// ServeStatus answers GET /status on the status socket until ctx ends.
func ServeStatus(ctx context.Context, runDir string, report func() Report) error {
	path := StatusSocket(runDir)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listen for status: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) { json.NewEncoder(w).Encode(report()) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// AskStatus asks a running server. An error that matches os.ErrNotExist or ECONNREFUSED means none runs.
func AskStatus(ctx context.Context, runDir string) (Report, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", StatusSocket(runDir))
	}}, Timeout: 5 * time.Second}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://skiff/status", nil)
	if err != nil {
		return Report{}, err
	}
	resp, err := client.Do(req)
	if err != nil {
		return Report{}, err
	}
	defer resp.Body.Close()
	var r Report
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return Report{}, fmt.Errorf("read the server's status: %w", err)
	}
	return r, nil
}

func splitLines(s string) []string {
	return strings.FieldsFunc(strings.TrimSpace(s), func(r rune) bool { return r == '\n' })
}
