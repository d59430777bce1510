// Package devices gives containers the devices that device plugins offer (KEP-3573, deviceplugin/v1beta1).
//
//	plugin ── Register ──► kubelet.sock           or its socket is found in plugins_registry
//	kubelet ── GetDevicePluginOptions, ListAndWatch ──► plugin: which devices there are, and how they are
//	pod admitted ─► Allocate: devices are chosen, the plugin is asked (GetPreferredAllocation, Allocate),
//	                what it answers is noted in a file
//	container starts ─► Extra: PreStartContainer, and what the plugin has answered goes into the container
//
// What a pod has been given is its own until it is over or its directory is gone, of which Release is told: over restarts of containers,
// of the plugin and of the kubelet. The file is the upstream kubelet's (package checkpoint). That a pod has been given something is in it
// before the pod starts; all else is written by Keep, so that no worker waits for the disk.
//
// A plugin that goes away leaves its devices unhealthy: pods keep them, nobody gets new ones. If it does not come back in
// 5 minutes, the node has none of the resource.
package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"google.golang.org/grpc"

	"github.com/skiff-node/skiff/kubelet/assign/devices/checkpoint"
	"github.com/skiff-node/skiff/kubelet/socket"
	"github.com/skiff-node/skiff/kubelet/whole"
)

// Config of a Manager.
type Config struct {
	// Dir is where plugins find the kubelet's socket, and put their own: /var/lib/kubelet/device-plugins. Required.
	Dir string
	// PodsDir holds the pods' directories. What pods without one had is forgotten at start. Required.
	PodsDir string
	// Nodes are the machine's NUMA nodes. Required.
	Nodes []int
	// Dial connects to a plugin's socket. Required.
	Dial func(socket string) (*grpc.ClientConn, error)
	// Changed is told that what the node has to offer is different, Sick that devices of these pods have become healthy or
	// unhealthy. Required; they must not block.
	Changed func()
	Sick    func(uids []types.UID)
	// Counts is told what happens. Optional.
	Counts Counts
	// Log may be nil.
	Log *slog.Logger
}

// Counts are upstream's metrics of device plugins. The methods must not block.
type Counts interface {
	Registered(resource string)
	Allocated(resource string, took time.Duration)
}

// Manager knows the plugins, their devices, and who has which.
type Manager struct {
	cfg   Config
	file  *whole.Kept
	stale chan struct{} // the file may say something else than the table

	turn  sync.Mutex // held while devices are given to a container, and taken before mu
	mu    sync.Mutex
	table table
}

// New makes a manager, with what the file says that containers have. A file that cannot be read is as good as none: that is
// logged.
func New(cfg Config) (*Manager, error) {
	if !filepath.IsAbs(cfg.Dir) {
		return nil, fmt.Errorf("device plugins: the directory %q must be an absolute path", cfg.Dir)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	path := filepath.Join(cfg.Dir, checkpoint.FileName)
	m := &Manager{cfg: cfg, file: whole.Keep(path), stale: make(chan struct{}, 1), table: newTable()}
	entries, registered, err := checkpoint.Read(path)
	if err != nil {
		cfg.Log.Warn("it is not known which devices containers have", "err", err)
	}
	for _, err := range m.table.load(entries, registered, time.Now()) {
		cfg.Log.Warn("an entry of the devices that containers have makes no sense", "err", err)
	}
	for uid := range m.table.grants {
		if _, err := os.Stat(filepath.Join(cfg.PodsDir, string(uid))); errors.Is(err, fs.ErrNotExist) {
			m.Release(uid)
		}
	}
	return m, nil
}

// save writes the file, if it has to say something else.
func (m *Manager) save() error {
	err := m.file.Save(func() (any, error) {
		m.mu.Lock()
		entries, err := m.table.entries()
		registered := m.table.registered()
		m.mu.Unlock()
		return checkpoint.Content(entries, registered), err
	})
	if err != nil {
		return fmt.Errorf("note which devices containers have: %w", err)
	}
	return nil
}

// Anew tells that there is no file: no device plugin has ever been here.
func (m *Manager) Anew() bool {
	_, err := os.Stat(filepath.Join(m.cfg.Dir, checkpoint.FileName))
	return errors.Is(err, fs.ErrNotExist)
}

// outdated has the file written soon.
func (m *Manager) outdated() {
	select {
	case m.stale <- struct{}{}:
	default:
	}
}

// Keep writes the file when it is outdated, until ctx ends.
func (m *Manager) Keep(ctx context.Context) error {
	for {
		select {
		case <-m.stale:
		case <-ctx.Done():
			if len(m.stale) == 0 {
				return nil
			}
			<-m.stale
		}
		if err := m.save(); err != nil {
			m.cfg.Log.Warn("cannot write the file of device plugins", "err", err)
		}
	}
}

// Run takes in plugins that register by the kubelet's socket, until ctx ends. Sockets that are there already are removed:
// plugins take that, or the new socket of the kubelet, as the sign to register again.
func (m *Manager) Run(ctx context.Context) error {
	if err := os.MkdirAll(m.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("make the directory of device plugins: %w", err)
	}
	if conn, err := net.Dial("unix", filepath.Join(m.cfg.Dir, "kubelet.sock")); err == nil {
		conn.Close()
		return fmt.Errorf("another kubelet serves device plugins in %s", m.cfg.Dir)
	}
	if err := removeSockets(m.cfg.Dir); err != nil {
		return err
	}
	l, err := net.Listen("unix", filepath.Join(m.cfg.Dir, "kubelet.sock"))
	if err != nil {
		return fmt.Errorf("listen for device plugins: %w", err)
	}
	srv := grpc.NewServer()
	r := &registrar{m: m, ctx: ctx}
	api.RegisterRegistrationServer(srv, r)
	err = socket.Serve(ctx, srv, l)
	m.close()
	if err != nil {
		return fmt.Errorf("serve device plugins: %w", err)
	}
	return nil
}

func removeSockets(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list sockets of device plugins: %w", err)
	}
	var errs []error
	for _, e := range list {
		if e.Type()&fs.ModeSocket != 0 {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove old sockets of device plugins: %w", err)
	}
	return nil
}

// close ends the connections with all plugins.
func (m *Manager) close() {
	m.mu.Lock()
	var all []*endpoint
	for _, r := range m.table.resources {
		all = append(all, r.plugins...)
	}
	m.mu.Unlock()
	for _, e := range all {
		e.close()
	}
}
