// Package stream serves exec, attach and port-forward sessions: a small HTTP server on the loopback interface
// that speaks SPDY and WebSocket by k8s.io/cri-streaming. A CRI call hands out a URL with a one-shot token; whoever
// connects with it first gets the session.
package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	utilexec "k8s.io/utils/exec"

	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/runtimeservice"
)

// Server hands out session URLs and serves them.
type Server struct {
	sessions streaming.Server
	listener net.Listener
}

// New listens on addr, which should be a loopback address: a token in the URL is all the authentication there is.
// Sessions are entered in the table of calls.
func New(addr string, processes runtimeservice.Processes, table *calls.Table) (*Server, error) {
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for exec, attach and port-forward sessions: %w", err)
	}
	config := streaming.DefaultConfig
	config.Addr = listener.Addr().String()
	config.BaseURL = &url.URL{Scheme: "http", Host: config.Addr, Path: "/"}
	sessions, err := streaming.NewServer(config, runtime{processes, table})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make the session server: %w", err), listener.Close())
	}
	return &Server{sessions: sessions, listener: listener}, nil
}

// Run serves until ctx is done; sessions end with it.
func (s *Server) Run(ctx context.Context) error {
	server := &http.Server{Handler: s.sessions, ReadHeaderTimeout: 30 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve exec, attach and port-forward sessions: %w", err)
	}
	return nil
}

// Exec, Attach and PortForward check a request and answer with the URL of its session.
func (s *Server) Exec(r *cri.ExecRequest) (*cri.ExecResponse, error) { return s.sessions.GetExec(r) }

// Attach is described with Exec.
func (s *Server) Attach(r *cri.AttachRequest) (*cri.AttachResponse, error) {
	return s.sessions.GetAttach(r)
}

// PortForward is described with Exec.
func (s *Server) PortForward(r *cri.PortForwardRequest) (*cri.PortForwardResponse, error) {
	return s.sessions.GetPortForward(r)
}

// runtime lets the streaming library reach the processes.
type runtime struct {
	processes runtimeservice.Processes
	calls     *calls.Table
}

// begin enters a session. It lasts as long as its peers like.
func (r runtime) begin(ctx context.Context, kind, key, id string) (context.Context, func(error)) {
	return r.calls.Begin(ctx, calls.Request{Method: calls.Session + kind, About: []slog.Attr{slog.String(key, id)}, Patience: -1})
}

func (r runtime) Exec(ctx context.Context, id string, argv []string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) (err error) {
	ctx, end := r.begin(ctx, "Exec", "container", id)
	defer func() { end(err) }()
	streams, stop := session(in, out, errs, tty, resize)
	defer stop()
	code, err := r.processes.Exec(ctx, id, argv, streams)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("exit status %d", code), Code: code}
	}
	return nil
}

func (r runtime) Attach(ctx context.Context, id string, in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) (err error) {
	ctx, end := r.begin(ctx, "Attach", "container", id)
	defer func() { end(err) }()
	streams, stop := session(in, out, errs, tty, resize)
	defer stop()
	return r.processes.Attach(ctx, id, streams)
}

func (r runtime) PortForward(ctx context.Context, sandbox string, port int32, rw io.ReadWriteCloser) (err error) {
	ctx, end := r.begin(ctx, "PortForward", "sandbox", sandbox)
	defer func() { end(err) }()
	if port <= 0 || port > 65535 {
		return fmt.Errorf("%w: port %d is not between 1 and 65535", runtimeservice.ErrInvalid, port)
	}
	return r.processes.PortForward(ctx, sandbox, uint16(port), rw)
}

// session translates the streams. The library closes its resize channel only with the connection, so the copy of
// it also ends with stop.
func session(in io.Reader, out, errs io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) (runtimeservice.Streams, func()) {
	s := runtimeservice.Streams{Stdin: in, Stdout: out, TTY: tty}
	if !tty {
		s.Stderr = errs
	}
	if resize == nil {
		return s, func() {}
	}
	sizes, done := make(chan runtimeservice.TerminalSize), make(chan struct{})
	s.Resize = sizes
	go forward(resize, sizes, done)
	return s, func() { close(done) }
}

func forward(in <-chan remotecommand.TerminalSize, out chan<- runtimeservice.TerminalSize, done <-chan struct{}) {
	defer close(out)
	for {
		select {
		case <-done:
			return
		case size, ok := <-in:
			if !ok {
				return
			}
			select {
			case out <- runtimeservice.TerminalSize{Width: size.Width, Height: size.Height}:
			case <-done:
				return
			}
		}
	}
}
