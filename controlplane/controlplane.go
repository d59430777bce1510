// Package controlplane assembles a control plane in this process: etcd, the API server, the controllers and the
// scheduler, with certificates that renew themselves.
//
// [New] makes what is missing on disk, takes the port and the data directory; [ControlPlane.Run] serves until its
// context ends; [ControlPlane.Ready] is closed once the API answers, which is also when controllers and scheduler
// start. They stop in the opposite order, so that each can finish what it has under way.
package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"

	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-node/skiff/controlplane/apiserver"
	"github.com/skiff-node/skiff/controlplane/controller"
	"github.com/skiff-node/skiff/controlplane/etcd"
	"github.com/skiff-node/skiff/controlplane/pki"
	"github.com/skiff-node/skiff/controlplane/scheduler"
)

// Config says what control plane to run.
type Config struct {
	Etcd         etcd.Config // required: Dir of the embedded member, or Endpoints of an external etcd
	Certificates pki.Config  // required: Dir and NodeName; ServiceIP, ClusterDomain and, if empty, APIServerURL are set here

	BindAddress      string     // to listen on; default all addresses
	Port             int        // default 6443
	AdvertiseAddress netip.Addr // required: where nodes and pods reach this server

	PodCIDR       netip.Prefix // default 10.42.0.0/16
	NodePrefix    int          // length of a node's part of it; default 24 (64 for IPv6)
	ServiceCIDR   netip.Prefix // default 10.43.0.0/16; its first address is the Service "kubernetes"
	DNSAddress    netip.Addr   // default the tenth address of ServiceCIDR
	ClusterDomain string       // default cluster.local
	NodePorts     string       // default 30000-32767

	LeaderElection bool         // with several servers: only one runs controllers and scheduler
	Log            *slog.Logger // optional
}

// ControlPlane is a control plane. Make it with New and let it Run once.
type ControlPlane struct {
	cfg   Config
	paths pki.Paths
	etcd  *etcd.Server
	api   *apiserver.Server
}

func (c *Config) complete() error {
	if !c.AdvertiseAddress.IsValid() {
		return errors.New("AdvertiseAddress is missing: give the address by which nodes reach this server")
	}
	if c.Port == 0 {
		c.Port = 6443
	}
	if !c.PodCIDR.IsValid() {
		c.PodCIDR = netip.MustParsePrefix("10.42.0.0/16")
	}
	if !c.ServiceCIDR.IsValid() {
		c.ServiceCIDR = netip.MustParsePrefix("10.43.0.0/16")
	}
	if c.PodCIDR.Overlaps(c.ServiceCIDR) {
		return fmt.Errorf("PodCIDR %s and ServiceCIDR %s overlap: choose ranges apart", c.PodCIDR, c.ServiceCIDR)
	}
	if !c.DNSAddress.IsValid() {
		c.DNSAddress = nth(c.ServiceCIDR, 10)
	}
	if !c.ServiceCIDR.Contains(c.DNSAddress) {
		return fmt.Errorf("DNSAddress %s is not in ServiceCIDR %s", c.DNSAddress, c.ServiceCIDR)
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	p := &c.Certificates
	p.ServiceIP, p.ClusterDomain = nth(c.ServiceCIDR, 1), c.ClusterDomain
	if p.APIServerURL == "" {
		p.APIServerURL = "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(c.Port))
	}
	return nil
}

// nth is the address n after the first of a range.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// New prepares a control plane and takes its port and data directory.
func New(cfg Config) (*ControlPlane, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	paths, err := pki.Ensure(cfg.Certificates)
	if err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	if cfg.Etcd.Log == nil {
		cfg.Etcd.Log = cfg.Log
	}
	c := &ControlPlane{cfg: cfg, paths: paths}
	if c.etcd, err = etcd.New(cfg.Etcd); err != nil {
		return nil, fmt.Errorf("control plane: %w", err)
	}
	if c.api, err = apiserver.New(c.serverConfig()); err != nil {
		return nil, errors.Join(fmt.Errorf("control plane: %w", err), c.closeEtcd())
	}
	return c, nil
}

// closeEtcd gives back what etcd.New took.
func (c *ControlPlane) closeEtcd() error {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	return c.etcd.Run(ended)
}

func (c *ControlPlane) serverConfig() apiserver.Config {
	p := c.paths
	return apiserver.Config{
		BindAddress:      c.cfg.BindAddress,
		Port:             c.cfg.Port,
		AdvertiseAddress: c.cfg.AdvertiseAddress.String(),
		Etcd:             c.etcd.Client(),
		ServingCert:      p.APIServer.Cert,
		ServingKey:       p.APIServer.Key,
		ClientCA:         p.CA.Cert,
		FrontProxy:       apiserver.FrontProxy{CA: p.FrontProxyCA.Cert, AllowedNames: []string{"front-proxy-client"}},
		Kubelet:          apiserver.KubeletClient{Cert: p.APIServerKubeletClient.Cert, Key: p.APIServerKubeletClient.Key, CA: p.CA.Cert},
		ServiceAccounts: apiserver.ServiceAccounts{
			SigningKey: p.ServiceAccount.Key,
			Issuer:     "https://kubernetes.default.svc." + c.cfg.ClusterDomain,
		},
		ServiceCIDRs: []string{c.cfg.ServiceCIDR.String()},
		NodePorts:    c.cfg.NodePorts,
		Log:          c.cfg.Log,
	}
}

// Paths names the certificates and kubeconfigs.
func (c *ControlPlane) Paths() pki.Paths { return c.paths }

// Addr is where the API server listens.
func (c *ControlPlane) Addr() net.Addr { return c.api.Addr() }

// Loopback is a privileged client configuration for parts of this process.
func (c *ControlPlane) Loopback() *rest.Config { return c.api.Loopback() }

// Ready is closed once the API answers requests.
func (c *ControlPlane) Ready() <-chan struct{} { return c.api.Ready() }

// Run serves until ctx ends and returns nil, or an error that names the part that failed.
func (c *ControlPlane) Run(ctx context.Context) error {
	// One context per layer, so that the lower ones outlive the upper ones.
	stopping, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	storeCtx, stopStore := context.WithCancel(context.WithoutCancel(ctx))
	defer stopStore()
	serveCtx, stopServing := context.WithCancel(storeCtx)
	defer stopServing()

	store, serving := background(storeCtx, stop, c.etcd.Run), background(serveCtx, stop, c.api.Run)
	upper := background(stopping, stop, c.runUpper)
	err := <-upper
	stopServing()
	err = errors.Join(err, <-serving)
	stopStore()
	err = errors.Join(err, <-store)
	if err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	return nil
}

// background runs a part. If it returns before its context ends, all parts have to stop.
func background(ctx context.Context, stop context.CancelCauseFunc, run func(context.Context) error) <-chan error {
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		if ctx.Err() != nil && (err == nil || errors.Is(err, ctx.Err())) {
			err = nil
		}
		stop(err)
		done <- err
	}()
	return done
}

// runUpper runs what uses the API, once it is ready.
func (c *ControlPlane) runUpper(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return pki.Renewer{Config: c.cfg.Certificates}.Run(ctx) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.api.Ready():
		}
		m, err := c.controllers()
		if err != nil {
			return err
		}
		s, err := c.scheduler()
		if err != nil {
			return err
		}
		group.Go(func() error { return s.Run(ctx) })
		return m.Run(ctx)
	})
	return group.Wait()
}

func (c *ControlPlane) controllers() (*controller.Manager, error) {
	api := c.api.Loopback()
	api.QPS, api.UserAgent = -1, "skiff-controllers"
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("controllers: make a client: %w", err)
	}
	// The controllers' own factory: the API server's informers run already, and upstream's constructors register handlers
	// before they set what those handlers use (disruption crashes on its nil lister).
	own := informers.NewSharedInformerFactory(client, 0)
	controller.LendPods(own, c.api.Informers())
	return controller.New(controller.Config{
		API:            c.api.Loopback(),
		Informers:      own,
		ClusterCAFile:  c.paths.CA.Cert,
		SigningCert:    c.paths.CA.Cert,
		SigningKey:     c.paths.CA.Key,
		ServiceKey:     c.paths.ServiceAccount.Key,
		PodCIDR:        c.cfg.PodCIDR,
		NodePrefix:     c.cfg.NodePrefix,
		ServiceCIDR:    c.cfg.ServiceCIDR,
		DNSAddress:     c.cfg.DNSAddress,
		ClusterDomain:  c.cfg.ClusterDomain,
		LeaderElection: c.cfg.LeaderElection,
		Identity:       c.cfg.Certificates.NodeName,
	})
}

func (c *ControlPlane) scheduler() (*scheduler.Scheduler, error) {
	api := c.api.Loopback()
	api.QPS, api.UserAgent = -1, "skiff-scheduler"
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("scheduler: make a client: %w", err)
	}
	return scheduler.New(scheduler.Config{Client: client, Informers: c.api.Informers()})
}
