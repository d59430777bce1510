// Package driver holds the DRA drivers of the node: who they are, whether they can be reached, what they are asked for,
// and what they tell about the health of their devices.
//
// A driver registers by a socket in plugins_registry (type DRAPlugin). Its "versions" are the gRPC services it serves:
// v1.DRAPlugin or v1beta1.DRAPlugin, and DRAResourceHealth if it tells of health (KEP-4680). A driver may register more
// than once, with different endpoints, while a new instance takes over from an old one; the newest that can be reached is used.
//
// The ResourceSlices that a driver has published are a promise that its devices can be had here. Nobody keeps it when the
// driver is gone, so the kubelet deletes them: all of this node when it starts, as no driver is known then, and a driver's
// when it could not be reached for a while. Drivers publish again when they come back.
package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"k8s.io/client-go/kubernetes"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
)

// wipeAfter is how long a driver may be away before its ResourceSlices are deleted: enough to replace its pod.
const wipeAfter = 30 * time.Second

// services and healthServices that the kubelet speaks, the newest first.
var (
	services       = []string{dra.DRAPluginService, drav1beta1.DRAPluginService}
	healthServices = []string{health.DRAResourceHealthService, healthv1alpha1.DRAResourceHealthService}
)

// Config of Drivers.
type Config struct {
	// Client deletes ResourceSlices. Required.
	Client kubernetes.Interface
	// Node is the node's name; Registered tells whether its object is known to be in the API, without which the kubelet
	// may not touch ResourceSlices. Required.
	Node       string
	Registered func() bool
	// Dial connects to a driver's socket. Required; plugin.Dial does it.
	Dial func(socket string) (*grpc.ClientConn, error)
	// Came is called when a driver can be reached: pods may have waited for it. Sick is called when the health of devices
	// has changed. Called tells of each call. All are optional and must not block.
	Came   func(driver string)
	Sick   func(driver string, devices []Device)
	Called func(driver, method, code string, took time.Duration)
	Log    *slog.Logger // optional
	// WipeAfter replaces how long a driver may be away, in tests.
	WipeAfter time.Duration
}

// Drivers are the DRA drivers of this node. It is the plugin.Handler of plugins of type DRAPlugin.
type Drivers struct {
	cfg  Config
	wake chan struct{} // capacity 1
	book book

	mu      sync.Mutex
	plugins map[string][]*Plugin // by driver, in the order of their registrations
	lost    map[string]time.Time // since when no plugin of the driver can be reached; it had one
	closed  bool
}

// New returns no drivers yet.
func New(cfg Config) (*Drivers, error) {
	if cfg.Client == nil || cfg.Node == "" || cfg.Registered == nil || cfg.Dial == nil {
		return nil, errors.New("dra: Client, Node, Registered and Dial are required")
	}
	if cfg.Came == nil {
		cfg.Came = func(string) {}
	}
	if cfg.Sick == nil {
		cfg.Sick = func(string, []Device) {}
	}
	if cfg.Called == nil {
		cfg.Called = func(string, string, string, time.Duration) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.WipeAfter <= 0 {
		cfg.WipeAfter = wipeAfter
	}
	return &Drivers{cfg: cfg, wake: make(chan struct{}, 1), book: book{drivers: map[string]map[Device]entry{}},
		plugins: map[string][]*Plugin{}, lost: map[string]time.Time{}}, nil
}

// Register implements plugin.Handler.
func (d *Drivers) Register(_ context.Context, name, endpoint string, versions []string) error {
	service, err := choose(versions)
	if err != nil {
		return fmt.Errorf("invalid supported gRPC versions of DRA driver plugin %s at endpoint %s: %w", name, endpoint, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errors.New("the kubelet is stopping")
	}
	if slices.ContainsFunc(d.plugins[name], func(p *Plugin) bool { return p.endpoint == endpoint }) {
		return fmt.Errorf("endpoint %s already registered for DRA driver plugin %s", endpoint, name)
	}
	conn, err := d.cfg.Dial(endpoint)
	if err != nil {
		return fmt.Errorf("create gRPC connection to DRA driver %s plugin at endpoint %s: %w", name, endpoint, err)
	}
	ctx, stop := context.WithCancel(context.Background())
	p := &Plugin{driver: name, endpoint: endpoint, service: service, conn: conn, stop: stop, called: d.cfg.Called}
	d.plugins[name] = append(d.plugins[name], p)
	p.group.Go(func() { d.watch(ctx, p) })
	if h := common(healthServices, versions); h != "" {
		p.group.Go(func() { d.listen(ctx, p, h) })
	}
	if d.lost[name].IsZero() {
		delete(d.lost, name) // it has another chance
	}
	d.sync(name)
	return nil
}

// choose picks the service to use, from those that a plugin says it serves.
func choose(versions []string) (string, error) {
	if len(versions) == 0 {
		return "", errors.New("empty list of supported gRPC services (aka supported versions)")
	}
	if s := common(services, versions); s != "" {
		return s, nil
	}
	return "", fmt.Errorf("none of services supported by the plugin (%q) are supported by the kubelet (%q)", versions, services)
}

// common is the first of ours that is among theirs.
func common(ours, theirs []string) string {
	for _, s := range ours {
		if slices.Contains(theirs, s) {
			return s
		}
	}
	return ""
}

// Unregister implements plugin.Handler.
func (d *Drivers) Unregister(name, endpoint string) {
	d.mu.Lock()
	i := slices.IndexFunc(d.plugins[name], func(p *Plugin) bool { return p.endpoint == endpoint })
	if i < 0 {
		d.mu.Unlock()
		return
	}
	p := d.plugins[name][i]
	d.plugins[name] = slices.Delete(d.plugins[name], i, i+1)
	d.sync(name)
	d.mu.Unlock()
	p.close()
}

// watch keeps the connection to a plugin, and notes whether there is one.
func (d *Drivers) watch(ctx context.Context, p *Plugin) {
	for {
		state := p.conn.GetState()
		if state == connectivity.Idle {
			p.conn.Connect() // or nobody would notice that it has gone or come back
		}
		d.connected(p, state == connectivity.Ready)
		if !p.conn.WaitForStateChange(ctx, state) {
			return
		}
	}
}

func (d *Drivers) connected(p *Plugin, now bool) {
	d.mu.Lock()
	came := now && !p.connected
	p.connected = now
	d.sync(p.driver)
	d.mu.Unlock()
	if came {
		d.cfg.Came(p.driver)
	}
}

func connected(p *Plugin) bool { return p.connected }

// sync notes since when a driver is lost. The caller holds the mutex.
func (d *Drivers) sync(name string) {
	if slices.ContainsFunc(d.plugins[name], connected) {
		delete(d.lost, name)
		return
	}
	if _, already := d.lost[name]; !already {
		d.lost[name] = time.Now()
		d.poke()
	}
	if len(d.plugins[name]) == 0 {
		delete(d.plugins, name)
	}
}

func (d *Drivers) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Reachable tells whether a plugin of the driver is connected.
func (d *Drivers) Reachable(name string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.plugins[name], connected)
}

// Get returns the plugin of a driver to be asked: the newest that is connected, else the newest.
func (d *Drivers) Get(name string) (*Plugin, error) {
	if name == "" {
		return nil, errors.New("DRA driver name is empty")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	list := d.plugins[name]
	for _, p := range slices.Backward(list) {
		if p.connected {
			return p, nil
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("DRA driver %s is not registered", name)
	}
	return list[len(list)-1], nil
}

// close lets all plugins go.
func (d *Drivers) close() {
	d.mu.Lock()
	d.closed = true
	var all []*Plugin
	for _, list := range d.plugins {
		all = append(all, list...)
	}
	d.mu.Unlock()
	for _, p := range all {
		p.close()
	}
}
