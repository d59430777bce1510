package etcd

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
)

const (
	memberName = "skiff"
	// tickMs and electionMs are raft's clock. A member alone elects itself after at most one election timeout; shorter
	// ticks cost idle CPU. All members of a cluster must agree on them.
	tickMs, electionMs = 50, 500
	defaultQuota       = 8 << 30
	// A database with more free space than this is defragmented at start, before it serves.
	defragThresholdMB = 100
	// maxSocketPath is the kernel's limit of a unix socket's path (unix(7)).
	maxSocketPath = 107

	// slow is how long a request may take before etcd warns. Its own 100 ms would warn at each start, when all caches fill.
	slow = time.Second

	dialKeepAliveTime    = 30 * time.Second
	dialKeepAliveTimeout = 10 * time.Second
)

func memberConfig(cfg Config, dir string, log *zap.Logger) (*embed.Config, error) {
	ec := embed.NewConfig()
	ec.Name, ec.Dir = memberName, filepath.Join(dir, "data")
	client, err := socketURL(dir, "client.sock")
	if err != nil {
		return nil, err
	}
	peer, err := socketURL(dir, "peer.sock")
	if err != nil {
		return nil, err
	}
	ec.ListenClientUrls, ec.AdvertiseClientUrls = []url.URL{client}, []url.URL{client}
	ec.ListenPeerUrls, ec.AdvertisePeerUrls = []url.URL{peer}, []url.URL{peer}
	ec.InitialCluster = memberName + "=" + peer.String()
	ec.TickMs, ec.ElectionMs = tickMs, electionMs
	ec.SnapshotCount = 10000
	ec.QuotaBackendBytes = cfg.QuotaBytes
	if cfg.QuotaBytes == 0 {
		ec.QuotaBackendBytes = defaultQuota
	}
	ec.BootstrapDefragThresholdMegabytes = defragThresholdMB
	ec.UnsafeNoFsync = cfg.UnsafeNoFsync
	ec.WatchProgressNotifyInterval = 5 * time.Second
	ec.EnableGRPCGateway = false
	ec.WarningApplyDuration, ec.WarningUnaryRequestDuration = slow, slow
	ec.ZapLoggerBuilder = embed.NewZapLoggerBuilder(log)
	return ec, nil
}

// socketURL names a unix socket in dir and removes one that a killed process left.
func socketURL(dir, name string) (url.URL, error) {
	path := filepath.Join(dir, name)
	if len(path) > maxSocketPath {
		return url.URL{}, fmt.Errorf("etcd: path of the socket %s is longer than %d bytes: choose a shorter data directory", path, maxSocketPath)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return url.URL{}, fmt.Errorf("etcd: remove old socket: %w", err)
	}
	return url.URL{Scheme: "unix", Path: path}, nil
}

// lock takes an exclusive lock for the life of the process; the kernel frees it however the process ends.
func lock(path string) (unlock func() error, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("etcd: open lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		holder, _ := io.ReadAll(f)
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s is held by pid %s: stop it first, or choose another data directory",
				ErrInUse, filepath.Dir(path), strings.TrimSpace(string(holder)))
		}
		return nil, fmt.Errorf("etcd: lock %s: %w", path, err)
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f.Close, nil
}

func (t TLSFiles) config() (*tls.Config, error) {
	if t == (TLSFiles{}) {
		return nil, nil
	}
	info := transport.TLSInfo{TrustedCAFile: t.CA, CertFile: t.Cert, KeyFile: t.Key}
	cfg, err := info.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("etcd: read TLS files: %w", err)
	}
	return cfg, nil
}

// writeFile copies r to path so that path holds either all of it or what it held before.
func writeFile(path string, r io.Reader) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return fmt.Errorf("etcd: snapshot file: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("etcd: write snapshot: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("etcd: name snapshot: %w", err)
	}
	return nil
}
