// Package controller runs the loops that make a cluster out of an API: upstream's own controllers, from
// k8s.io/kubernetes/pkg/controller, and skiff's few additions, all in this process on one set of informers.
//
// The controllers are the rows of one table (see table.go). [Manager.Run] waits for nothing but its context: give it
// a server that answers. It builds every controller of the table whose kinds the server knows, starts the
// informers, and runs them all. A controller that returns early is built and started again.
//
// With several servers only one may run controllers at a time: LeaderElection makes Run wait for a Lease first. A Run
// that loses its Lease returns [ErrLost]; its process must not go on as if nothing had happened, since its
// controllers may have requests under way.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	cacheddiscovery "k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/controller-manager/pkg/informerfactory"
)

// ErrLost says that another server has taken over.
var ErrLost = errors.New("controllers: the leader's lease was lost")

// Config says where and how to run.
type Config struct {
	API       *rest.Config                    // required: a privileged client of the API server
	Informers informers.SharedInformerFactory // required: not started by others before all controllers are built; Run starts it

	ClusterCAFile string // required: certificate that pods verify the API server with, PEM
	SigningCert   string // certificate and key that sign certificate requests; without them none are signed
	SigningKey    string
	ServiceKey    string // private key of service account tokens; without it no token Secrets are filled

	PodCIDR       netip.Prefix // required: split among the nodes
	NodePrefix    int          // length of a node's part of it; default 24 (64 for IPv6)
	ServiceCIDR   netip.Prefix // required: never given to pods
	DNSAddress    netip.Addr   // required: cluster IP of the DNS service
	ClusterDomain string       // default cluster.local

	LeaderElection bool   // with several servers
	Identity       string // of this server in the election; required with LeaderElection
}

// Manager runs the controllers. Make it with New.
type Manager struct{ cfg Config }

// New checks the configuration.
func New(cfg Config) (*Manager, error) {
	switch {
	case cfg.API == nil:
		return nil, errors.New("controllers: API is missing")
	case cfg.Informers == nil:
		return nil, errors.New("controllers: Informers is missing")
	case cfg.ClusterCAFile == "":
		return nil, errors.New("controllers: ClusterCAFile is missing")
	case !cfg.PodCIDR.IsValid():
		return nil, errors.New("controllers: PodCIDR is missing, as 10.42.0.0/16")
	case !cfg.ServiceCIDR.IsValid():
		return nil, errors.New("controllers: ServiceCIDR is missing, as 10.43.0.0/16")
	case !cfg.ServiceCIDR.Contains(cfg.DNSAddress):
		return nil, fmt.Errorf("controllers: DNSAddress %s is not in ServiceCIDR %s", cfg.DNSAddress, cfg.ServiceCIDR)
	case cfg.LeaderElection && cfg.Identity == "":
		return nil, errors.New("controllers: Identity is missing, the name of this server in the election")
	}
	if cfg.NodePrefix == 0 {
		cfg.NodePrefix = 24
		if cfg.PodCIDR.Addr().Is6() {
			cfg.NodePrefix = 64
		}
	}
	if cfg.NodePrefix < cfg.PodCIDR.Bits() {
		return nil, fmt.Errorf("controllers: NodePrefix /%d is wider than PodCIDR %s", cfg.NodePrefix, cfg.PodCIDR)
	}
	if cfg.ClusterDomain == "" {
		cfg.ClusterDomain = "cluster.local"
	}
	return &Manager{cfg: cfg}, nil
}

// Run runs the controllers until ctx ends, and returns its error after all have ended.
func (m *Manager) Run(ctx context.Context) error {
	if m.cfg.LeaderElection {
		return m.elect(ctx, m.lead)
	}
	return m.lead(ctx)
}

// env is what controllers are built from.
type env struct {
	Config
	client    kubernetes.Interface
	metadata  metadata.Interface
	mapper    *restmapper.DeferredDiscoveryRESTMapper
	objects   informerfactory.InformerFactory // typed informers where there are types, metadata of any other kind
	metas     metadatainformer.SharedInformerFactory
	started   chan struct{} // closed when the informers run
	kinds     map[schema.GroupVersionResource]bool
	startOnce sync.Once
}

func newEnv(cfg Config) (*env, error) {
	api := rest.CopyConfig(cfg.API)
	// The server is in this process: what must be limited is limited there, by flow control.
	api.QPS, api.Burst = -1, 0
	api.UserAgent = "skiff-controllers"
	api.WarningHandler = rest.NoWarnings{} // they would say at each write that Endpoints are deprecated
	client, err := kubernetes.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	meta, err := metadata.NewForConfig(api)
	if err != nil {
		return nil, fmt.Errorf("make a metadata client: %w", err)
	}
	metas := metadatainformer.NewSharedInformerFactory(meta, 0)
	return &env{
		Config:   cfg,
		client:   client,
		metadata: meta,
		mapper:   restmapper.NewDeferredDiscoveryRESTMapper(cacheddiscovery.NewMemCacheClient(client.Discovery())),
		objects:  informerfactory.NewInformerFactory(cfg.Informers, metas),
		metas:    metas,
		started:  make(chan struct{}),
	}, nil
}

// discover asks the server which kinds it knows.
func (e *env) discover() error {
	lists, err := e.client.Discovery().ServerPreferredResources()
	if len(lists) == 0 && err != nil {
		return fmt.Errorf("ask which kinds the API serves: %w", err)
	}
	if err != nil {
		// An aggregated API that is away hides its own kinds only.
		slog.Warn("some kinds of the API are unknown", "err", err)
	}
	e.kinds = map[schema.GroupVersionResource]bool{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			continue
		}
		for _, r := range l.APIResources {
			e.kinds[gv.WithResource(r.Name)] = true
		}
	}
	return nil
}

// start starts all informers that have been asked for.
func (e *env) start(ctx context.Context) {
	e.Informers.StartWithContext(ctx)
	e.metas.Start(ctx.Done())
	e.startOnce.Do(func() { close(e.started) })
}

// lead builds and runs everything.
func (m *Manager) lead(ctx context.Context) error {
	ctx = quiet(ctx)
	e, err := newEnv(m.cfg)
	if err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	if err := e.discover(); err != nil {
		return fmt.Errorf("controllers: %w", err)
	}
	type loop struct {
		row
		run func(context.Context)
	}
	var loops []loop
	for _, r := range table() {
		if missing := e.missing(r); missing != "" {
			slog.Info("controller left out: the API does not serve what it needs", "controller", r.name, "kind", missing)
			continue
		}
		run, err := r.build(ctx, e)
		if err != nil {
			return fmt.Errorf("controllers: build %s: %w", r.name, err)
		}
		if run != nil {
			loops = append(loops, loop{r, run})
		}
	}
	e.start(ctx)
	m.sync(ctx)
	var all sync.WaitGroup
	for _, l := range loops {
		all.Go(func() { m.keep(ctx, e, l.row, l.run) })
	}
	all.Wait()
	return ctx.Err()
}

// sync waits, a while at most, until the informers have read what is there: controllers check that by polling, and
// the first look of those that start later succeeds.
func (m *Manager) sync(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	m.cfg.Informers.WaitForCacheSyncWithContext(ctx)
}

// missing names a kind that the row needs and the server does not know.
func (e *env) missing(r row) string {
	for _, need := range r.needs {
		gvr, _ := schema.ParseResourceArg(need)
		if !e.kinds[*gvr] {
			return need
		}
	}
	return ""
}

// keep runs one controller until ctx ends. One that returns before is built again after a pause.
func (m *Manager) keep(ctx context.Context, e *env, r row, run func(context.Context)) {
	const pause = 5 * time.Second
	for {
		run(ctx)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			slog.Error("a controller returned and is started again", "controller", r.name)
			again, err := r.build(ctx, e)
			if err == nil {
				run = again
				break
			}
			slog.Error("build a controller", "controller", r.name, "err", err)
		}
		e.start(ctx)
	}
}
