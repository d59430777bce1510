// Package apiserver serves the Kubernetes API: the generic server of k8s.io/apiserver, assembled by hand so that nothing
// is done at start that can be done on first use, with the rules of upstream's kinds (package rules) over etcd
// (package store).
//
// Life cycle: [New] checks the configuration, takes the port and assembles; [Server.Run] serves until its context
// ends; [Server.Ready] is closed once /readyz answers ok. Roles, namespaces and the like that every cluster has are
// written in the background (package bootstrap) and do not hold up readiness.
package apiserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericregistry "k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/filters"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-node/skiff/controlplane/apiserver/openapi"
	"github.com/skiff-node/skiff/controlplane/apiserver/rules"
	rulesadmission "github.com/skiff-node/skiff/controlplane/apiserver/rules/admission"
	"github.com/skiff-node/skiff/controlplane/apiserver/rules/auth"
	"github.com/skiff-node/skiff/controlplane/apiserver/store"
)

// minRequestTimeout is the shortest life of a watch, upstream's default.
const minRequestTimeout = 30 * time.Minute

// Stopping ends all watches within watchGrace, which clients take as a sign to connect again, and gives other requests
// stopGrace. Without the first, a stop would wait a minute for any kubelet that is still there.
const (
	watchGrace = time.Second
	stopGrace  = 5 * time.Second
)

type restStorage = genericregistry.Storage

// Server is an API server; make it with New.
type Server struct {
	settings  settings
	generic   *genericapiserver.GenericAPIServer
	loopback  *rest.Config
	client    kubernetes.Interface
	informers informers.SharedInformerFactory
	authz     *auth.Authorizer
	stores    *store.Stores
	ready     chan struct{}
}

// assembly is a Server under construction.
type assembly struct {
	settings
	config  *genericapiserver.RecommendedConfig
	client  kubernetes.Interface
	dynamic dynamic.Interface
	tokens  auth.Tokens
	authz   *auth.Authorizer
	stores  *store.Stores
	memory  *loopback
}

// New assembles a server and takes its port; it does not serve yet.
func New(cfg Config) (_ *Server, err error) {
	s, err := cfg.read()
	if err != nil {
		return nil, err
	}
	l, err := s.listen()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	a := &assembly{settings: s, config: genericapiserver.NewRecommendedConfig(rules.Codecs()), memory: newLoopback()}
	for _, step := range []func() error{
		func() error { return a.serve(l) }, a.clients, a.identify, a.store, a.admit,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return a.finish()
}

// serve sets what every request passes through.
func (a *assembly) serve(l net.Listener) (err error) {
	c := a.config
	if c.SecureServing, err = a.settings.serving(l); err != nil {
		return err
	}
	c.LoopbackClientConfig = a.memory.config()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		return err
	}
	c.ExternalAddress = net.JoinHostPort(a.AdvertiseAddress, port)
	c.PublicAddress = a.advertise
	c.EffectiveVersion = newEffectiveVersion()
	c.FeatureGate = utilfeature.DefaultFeatureGate
	c.LegacyAPIGroupPrefixes = sets.NewString(genericapiserver.DefaultLegacyAPIPrefix)
	c.MergedResourceConfig = serverstorage.NewResourceConfig()
	c.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"), sets.NewString("attach", "exec", "proxy", "log", "portforward"))
	c.SkipOpenAPIInstallation = true
	c.EnableProfiling = false
	c.ShutdownWatchTerminationGracePeriod = watchGrace
	return nil
}

// clients makes the clients and the one informer factory of this process.
func (a *assembly) clients() (err error) {
	cfg := a.config.LoopbackClientConfig
	if a.client, err = kubernetes.NewForConfig(cfg); err != nil {
		return fmt.Errorf("API server: loopback client: %w", err)
	}
	plain := rest.CopyConfig(cfg)
	plain.ContentType, plain.AcceptContentTypes = "application/json", "application/json"
	if a.dynamic, err = dynamic.NewForConfig(plain); err != nil {
		return fmt.Errorf("API server: loopback dynamic client: %w", err)
	}
	a.config.SharedInformerFactory = informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTransform(trim))
	return nil
}

// trim drops what no controller reads and what is often half of an object.
func trim(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil && m.GetManagedFields() != nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}

// identify sets who is believed and who may do what.
func (a *assembly) identify() (err error) {
	issuer := a.ServiceAccounts.Issuer
	a.tokens, err = auth.NewTokens(auth.Accounts{
		SigningKey: a.ServiceAccounts.SigningKey, PublicKeys: a.ServiceAccounts.PublicKeys, Issuers: []string{issuer},
	})
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	proxy, err := a.frontProxy()
	if err != nil {
		return err
	}
	clients := a.config.SecureServing.ClientCA // what follows adds the front proxy's to those that handshakes ask for
	authn := &a.config.Authentication
	authn.APIAudiences = []string{issuer}
	if proxy != nil {
		if err := authn.ApplyClientCert(proxy.CAContentProvider, a.config.SecureServing); err != nil {
			return fmt.Errorf("API server: front proxy: %w", err)
		}
		authn.RequestHeaderConfig = proxy
	}
	authn.Authenticator = auth.NewAuthenticator(auth.Authn{
		ClientCA: clients, Proxy: proxy, Tokens: a.tokens, Audiences: authn.APIAudiences,
		Client: a.client, Informers: a.config.SharedInformerFactory,
	})
	if a.authz, err = auth.NewAuthorizer(a.config.SharedInformerFactory); err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	a.config.Authorization.Authorizer = a.authz
	a.config.RuleResolver = a.authz
	return nil
}

func (a *assembly) store() error {
	a.stores = store.New(store.Config{
		Client: a.Etcd, Scheme: rules.Scheme(), Codecs: rules.Codecs(),
		Version: a.config.EffectiveVersion, Tracker: a.config.StorageObjectCountTracker,
	})
	a.config.RESTOptionsGetter = a.stores
	return nil
}

func (a *assembly) admit() (err error) {
	a.config.AdmissionControl, err = rulesadmission.New(rulesadmission.Config{
		Client: a.client, Dynamic: a.dynamic, Informers: a.config.SharedInformerFactory, Authorizer: a.authz,
		Mapper: newMapper(a.client), Version: a.config.EffectiveVersion, Features: a.config.FeatureGate,
		Done: a.config.DrainedNotify(), Services: newServiceResolver(a.config.SharedInformerFactory),
	})
	if err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	return nil
}

// finish builds the server and installs all groups.
func (a *assembly) finish() (*Server, error) {
	a.config.AggregatedDiscoveryGroupManager = aggregated.NewResourceManager("apis")
	ext, err := a.extensions()
	if err != nil {
		return nil, err
	}
	a.config.EnableDiscovery = false
	generic, err := a.config.Complete().New("skiff-apiserver", ext.GenericAPIServer)
	if err != nil {
		return nil, fmt.Errorf("API server: assemble: %w", err)
	}
	generic.ShutdownTimeout = stopGrace
	groups, err := rules.Groups(rules.Deps{
		Getter: a.stores, Client: a.client,
		Authenticator: a.config.Authentication.Authenticator, Audiences: a.config.Authentication.APIAudiences,
		Authorizer: a.config.Authorization.Authorizer, Rules: a.authz,
		Issuer: a.tokens.Issuer, ServiceRanges: a.services, NodePorts: a.nodePorts,
		Kubelet: rules.Kubelet(a.Kubelet), Proxy: proxyTransport(),
	})
	if err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	i := &installer{
		server: generic, config: &a.config.Config, admit: a.config.AdmissionControl, converter: &lazyConverter{},
		addresses: discovery.DefaultAddresses{DefaultAddress: a.config.ExternalAddress},
	}
	if err := i.install(groups); err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	if err := a.tokens.InstallDiscovery(generic.Handler.GoRestfulContainer, a.config.ExternalAddress); err != nil {
		return nil, fmt.Errorf("API server: %w", err)
	}
	openapi.New(ext).Install(generic.Handler.NonGoRestfulMux)
	generic.RegisterDestroyFunc(a.stores.Close)
	a.memory.serve(generic.Handler)
	s := &Server{
		settings: a.settings, generic: generic, loopback: a.config.LoopbackClientConfig, client: a.client,
		informers: a.config.SharedInformerFactory, authz: a.authz, stores: a.stores, ready: make(chan struct{}),
	}
	return s, s.hooks()
}

// proxyTransport carries requests to pods and services; their certificates are their own affair, as upstream.
func proxyTransport() http.RoundTripper {
	return &http.Transport{
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see the function's comment
		DialContext:         (&net.Dialer{Timeout: 30 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 2,
		IdleConnTimeout:     time.Minute,
	}
}

// Loopback is a privileged client configuration for the parts of this process: its requests go through memory.
func (s *Server) Loopback() *rest.Config { return rest.CopyConfig(s.loopback) }

// Informers is the one informer factory of this process; the server starts it. Whoever asks it for more informers after
// Ready calls Start on it again.
func (s *Server) Informers() informers.SharedInformerFactory { return s.informers }

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.generic.SecureServingInfo.Listener.Addr() }

// Ready is closed once /readyz answers ok.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// Run serves until ctx ends and the requests in flight are answered.
func (s *Server) Run(ctx context.Context) error {
	if err := s.stores.WaitReady(ctx); err != nil {
		s.generic.Destroy()
		return errors.Join(s.generic.SecureServingInfo.Listener.Close(), ignore(err, ctx.Err()))
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	defer context.AfterFunc(ctx, func() {
		s.awaitHooks()
		stop()
	})()
	if err := s.generic.PrepareRun().RunWithContext(serving); err != nil {
		return fmt.Errorf("API server: %w", err)
	}
	return nil
}

// hooksPatience bounds how long a stop waits for a start that is still under way.
const hooksPatience = 10 * time.Second

// awaitHooks waits until the server has become ready. The library ends the whole process when a post-start hook is
// interrupted ("PostStartHook crd-informer-synced failed: context canceled"), so a stop lets them finish first.
func (s *Server) awaitHooks() {
	select {
	case <-s.ready:
	case <-time.After(hooksPatience):
	}
}

// ignore drops an error that only says that the context ended.
func ignore(err, ended error) error {
	if ended != nil {
		return nil
	}
	return err
}
