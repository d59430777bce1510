// Package server is the kubelet's HTTPS server (port 10250): logs, exec, attach and port-forward of containers, the pods
// of the node, statistics and metrics. Its paths, parameters, words of refusal and rules of authorisation are upstream's,
// because API servers, Prometheus and metrics-server speak to it.
//
// A request passes three gates: who is it (x509 client certificate, bearer token by TokenReview, or anonymous), may they
// (SubjectAccessReview of a subresource of this node, see subresources), and then the handler. Both reviews are
// remembered for some time. /healthz on 10248 has no gates; it listens on the loopback.
//
// The server asks the runtime for everything about containers; the pods with their statuses it gets from the kubelet.
// Streams are not touched: the runtime gives a URL, and the connection is upgraded and spliced to it.
package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/kubelet/metrics"
)

// Auth is who may do what.
type Auth struct {
	// Client reviews tokens and accesses. Without one, neither tokens nor Webhook work.
	Client kubernetes.Interface
	// ClientCAs returns the authorities of client certificates; nil means that certificates say nothing.
	ClientCAs func() *x509.CertPool
	// Anonymous lets requests without credentials in, as system:anonymous.
	Anonymous bool
	// Tokens asks the API server about bearer tokens; a good one is believed for TokenTTL (0: 2 min).
	Tokens   bool
	TokenTTL time.Duration
	// AlwaysAllow lets everybody who is let in do everything; else the API server is asked, and believed for AllowTTL
	// (0: 5 min) and DenyTTL (0: 30 s).
	AlwaysAllow       bool
	AllowTTL, DenyTTL time.Duration
}

// Bounds of the protocol; zero values mean Go's defaults.
type Bounds struct {
	// Least version, Ciphers of TLS 1.2, and Curves, the preferred one first.
	Least   uint16
	Ciphers []uint16
	Curves  []tls.CurveID
}

// Config is what a Server needs.
type Config struct {
	// Address is where to serve HTTPS, e.g. "0.0.0.0:10250". Health is where to serve /healthz by HTTP, e.g.
	// "127.0.0.1:10248". Either may be empty: nowhere.
	Address, Health string
	// Certificate returns the server's certificate for each connection. Required.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	TLS         Bounds
	Auth        Auth
	// ReadOnly is where to serve pods, statistics and metrics by HTTP to anybody; empty means nowhere.
	ReadOnly string
	// NodeName is this node's name: the object that accesses are about.
	NodeName string
	// Pods lists the pods of the node with their newest statuses.
	Pods func() []*v1.Pod
	// Runtime is the container runtime.
	Runtime runtimeapi.RuntimeServiceClient
	// Healthy says why the kubelet is not healthy, or nil. May be nil. Checked is told of each health check. Optional.
	Healthy func() error
	Checked func(name string, err error)
	// Pages are further read-only pages by path, such as /metrics and /stats/summary.
	Pages map[string]http.Handler
	// Metrics count requests. Optional.
	Metrics *metrics.Server
	// Traced makes spans of requests that were let in; public says that everybody is. Optional.
	Traced func(next http.Handler, public bool) http.Handler
	About  About
	Debug  Debug
	// Log may be nil.
	Log *slog.Logger
}

// About is what the kubelet tells of itself.
type About struct {
	// Version is the kubelet's, for /statusz; Flags are those it was started with, for /flagz.
	Version string
	Flags   map[string]string
	// Configz is shown at /configz, as JSON. May be nil.
	Configz any
}

// Debug is what reaches into containers, the node and the process.
type Debug struct {
	// Off turns off all of it (enableDebuggingHandlers: false), NoProfiling /debug/pprof.
	Off, NoProfiling bool
	// CheckpointDir takes the archives of checkpointed containers; empty turns checkpoints off.
	CheckpointDir string
	// LogDir is shown at /logs/; empty means not at all. LogQuery lets requests ask it for the logs of services.
	LogDir   string
	LogQuery bool
	// Verbosity sets how much the kubelet logs (/debug/flags/v), as klog counts; nil when that cannot be changed.
	Verbosity func(level uint32)
}

// Server serves until its context ends.
type Server struct {
	cfg   Config
	auth  *authenticator
	allow *authorizer
}

// New checks the configuration.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Certificate == nil:
		return nil, errors.New("kubelet server: Certificate is required")
	case cfg.Pods == nil || cfg.Runtime == nil || cfg.NodeName == "":
		return nil, errors.New("kubelet server: Pods, Runtime and NodeName are required")
	case cfg.Auth.Client == nil && !cfg.Auth.AlwaysAllow:
		return nil, errors.New("kubelet server: authorization by the API server (mode Webhook) needs a kubeconfig: give one, or set authorization.mode: AlwaysAllow")
	case cfg.Auth.Client == nil && cfg.Auth.Tokens:
		return nil, errors.New("kubelet server: authentication of tokens needs a kubeconfig: give one, or set authentication.webhook.enabled: false")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Metrics == nil {
		cfg.Metrics = metrics.NewKubelet().Server
	}
	if cfg.Traced == nil {
		cfg.Traced = func(next http.Handler, _ bool) http.Handler { return next }
	}
	if cfg.Checked == nil {
		cfg.Checked = func(string, error) {}
	}
	if cfg.Healthy == nil {
		cfg.Healthy = func() error { return nil }
	}
	return &Server{cfg: cfg, auth: newAuthenticator(cfg.Auth), allow: newAuthorizer(cfg.Auth)}, nil
}

// Run listens and serves until ctx ends. Connections that stream are cut then.
func (s *Server) Run(ctx context.Context) error {
	var servers []*http.Server
	failed := make(chan error, 3)
	serve := func(l net.Listener, h http.Handler) {
		srv := s.server(h)
		servers = append(servers, srv)
		go func() { failed <- srv.Serve(l) }()
	}
	var err error
	if s.cfg.Address != "" {
		var l net.Listener
		if l, err = listen(s.cfg.Address, "port"); err == nil {
			serve(tls.NewListener(l, s.tlsConfig()), s.Handler())
		}
	}
	if s.cfg.ReadOnly != "" && err == nil {
		var l net.Listener
		if l, err = listen(s.cfg.ReadOnly, "readOnlyPort"); err == nil {
			serve(l, openPort{s}.handler())
		}
	}
	if s.cfg.Health != "" && err == nil {
		var l net.Listener
		if l, err = listen(s.cfg.Health, "healthzPort"); err == nil {
			serve(l, doctor{s}.healthz())
		}
	}
	if err == nil {
		select {
		case <-ctx.Done():
		case err = <-failed:
			err = fmt.Errorf("kubelet server: %w", err)
		}
	}
	for _, srv := range servers {
		err = errors.Join(err, srv.Close())
	}
	return err
}

// listen binds the address; field is where to change it.
func listen(address, field string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("kubelet server: listen on %s: %w: end the process that uses it, or set %s in the kubelet's configuration", address, err, field)
	}
	return l, nil
}

func (s *Server) server(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 32 * time.Second,
		IdleTimeout:       90 * time.Second,
		ErrorLog:          slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
}

func (s *Server) tlsConfig() *tls.Config {
	return &tls.Config{
		GetCertificate: s.cfg.Certificate,
		MinVersion:     s.cfg.TLS.Least,
		CipherSuites:   s.cfg.TLS.Ciphers,

		CurvePreferences: s.cfg.TLS.Curves,
		ClientAuth:       tls.RequestClientCert, // checked by the authenticator, for a token may come instead
		NextProtos:       []string{"http/1.1"},  // a connection of HTTP/2 cannot be upgraded
	}
}

// guard lets a request through when its sender is known and allowed.
func (s *Server) guard(next http.Handler) http.Handler {
	next = s.cfg.Traced(next, false)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer s.cfg.Metrics.Request(r)()
		who, err := s.auth.who(r)
		if err != nil {
			s.cfg.Log.Debug("request refused: not authenticated", "path", r.URL.Path, "from", r.RemoteAddr, "err", err)
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		verb, subs := verb(r.Method), subresources(r.URL.Path)
		for _, sub := range subs {
			allowed, err := s.allow.may(r.Context(), who, access{verb: verb, node: s.cfg.NodeName, subresource: sub})
			if err != nil {
				s.cfg.Log.Warn("request refused: the API server could not be asked", "user", who.Username, "path", r.URL.Path, "err", err)
				http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", who.Username, verb, sub), http.StatusInternalServerError)
				return
			}
			if allowed {
				next.ServeHTTP(w, r)
				return
			}
		}
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource(s)=%v)", who.Username, verb, subs), http.StatusForbidden)
	})
}
