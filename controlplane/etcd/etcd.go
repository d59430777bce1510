// Package etcd runs the store of the cluster: one etcd member inside the control plane's process, or a client of
// an external etcd.
//
// Life cycle: [New] checks the configuration, takes the data directory and starts the member; [Server.Ready] is
// closed once it has elected itself and serves; [Server.Run] keeps it until its context ends or the member fails,
// then closes it. A kill at any instant is safe: etcd's write-ahead log is synced before a write is answered.
//
// Keys and values travel through memory: the client's KV and Lease talk to the member's own handlers. Watches go
// over gRPC on a unix socket in the data directory, because in-process watch streams neither answer progress
// requests nor survive storms of cancellations (etcd-io/etcd#18879).
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
)

// ErrInUse is returned by New when another process holds the data directory.
var ErrInUse = errors.New("etcd data directory is in use by another process")

// Config says which etcd to use. Either Dir or Endpoints is required.
type Config struct {
	// Dir is the data directory of the embedded member; it is created with mode 0700.
	Dir string
	// Endpoints are the URLs of an external etcd; with them nothing is embedded and Dir is unused.
	Endpoints []string
	// TLS names the files for an external etcd over https.
	TLS TLSFiles
	// UnsafeNoFsync gives up durability for speed: a power cut may lose the last writes. For tests and throw-away clusters.
	UnsafeNoFsync bool
	// QuotaBytes bounds the size of the database; writes fail beyond it. 0 means 8 GiB.
	QuotaBytes int64
	// Log receives etcd's own messages. Optional.
	Log *slog.Logger
}

// TLSFiles are paths of PEM files.
type TLSFiles struct {
	CA, Cert, Key string
}

// Server is a running member, or a client of an external etcd.
type Server struct {
	member *embed.Etcd
	client *kubernetes.Client
	unlock func() error
	ready  chan struct{}
	log    *bridge
	once   sync.Once
}

// New takes the data directory and starts the member; it does not wait for it to be ready.
func New(cfg Config) (*Server, error) {
	if cfg.Log == nil {
		cfg.Log = slog.Default()
	}
	if len(cfg.Endpoints) > 0 {
		return newExternal(cfg)
	}
	if cfg.Dir == "" {
		return nil, errors.New("etcd: Dir or Endpoints is required")
	}
	return newEmbedded(cfg)
}

func newEmbedded(cfg Config) (_ *Server, err error) {
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("etcd: resolve data directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("etcd: make data directory: %w", err)
	}
	unlock, err := lock(filepath.Join(dir, "lock"))
	if err != nil {
		return nil, err
	}
	s := &Server{unlock: unlock, ready: make(chan struct{}), log: newBridge(cfg.Log)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	ec, err := memberConfig(cfg, dir, s.log.logger())
	if err != nil {
		return nil, err
	}
	if s.member, err = embed.StartEtcd(ec); err != nil {
		return nil, fmt.Errorf("etcd: start member in %s: %w", dir, err)
	}
	if s.client, err = kubernetes.New(clientConfig([]string{ec.ListenClientUrls[0].String()}, s.log.logger())); err != nil {
		return nil, fmt.Errorf("etcd: client of the embedded member: %w", err)
	}
	inProcess := v3client.New(s.member.Server)
	s.client.KV, s.client.Lease = &gate{inProcess.KV, s.Ready()}, inProcess.Lease
	return s, nil
}

func newExternal(cfg Config) (*Server, error) {
	log := newBridge(cfg.Log)
	cc := clientConfig(cfg.Endpoints, log.logger())
	tls, err := cfg.TLS.config()
	if err != nil {
		return nil, err
	}
	cc.TLS = tls
	client, err := kubernetes.New(cc)
	if err != nil {
		return nil, fmt.Errorf("etcd: client of %v: %w", cfg.Endpoints, err)
	}
	s := &Server{client: client, ready: make(chan struct{}), log: log}
	close(s.ready)
	return s, nil
}

// Client is the one client of this process. It may be used before Ready: requests wait for the member.
func (s *Server) Client() *kubernetes.Client { return s.client }

// Ready is closed once the member serves requests.
func (s *Server) Ready() <-chan struct{} {
	if s.member == nil {
		return s.ready
	}
	return s.member.Server.ReadyNotify()
}

// Run keeps the member until ctx ends, then closes it and frees the data directory. It returns early when the
// member fails.
func (s *Server) Run(ctx context.Context) error {
	defer s.close()
	if s.member == nil {
		s.log.phase.Store(serving)
		<-ctx.Done()
		return nil
	}
	ready := s.Ready()
	for {
		select {
		case <-ready:
			s.log.phase.Store(serving)
			ready = nil
		case <-ctx.Done():
			return nil
		case err := <-s.member.Err():
			return fmt.Errorf("etcd: member failed: %w", err)
		case <-s.member.Server.StopNotify():
			return errors.New("etcd: member stopped by itself")
		}
	}
}

// Snapshot writes a consistent copy of the database to path, by temporary file and rename. The copy can be restored with
// etcdutl.
func (s *Server) Snapshot(ctx context.Context, path string) error {
	r, err := s.client.Snapshot(ctx)
	if err != nil {
		return fmt.Errorf("etcd: snapshot: %w", err)
	}
	defer r.Close()
	return writeFile(path, r)
}

func (s *Server) close() {
	s.once.Do(func() {
		s.log.phase.Store(closing)
		if s.client != nil {
			s.client.Close()
		}
		if s.member != nil {
			s.member.Close()
		}
		if s.unlock != nil {
			s.unlock()
		}
	})
}

func clientConfig(endpoints []string, log *zap.Logger) clientv3.Config {
	return clientv3.Config{
		Endpoints:            endpoints,
		DialKeepAliveTime:    dialKeepAliveTime,
		DialKeepAliveTimeout: dialKeepAliveTimeout,
		Logger:               log,
	}
}
