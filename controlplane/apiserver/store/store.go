// Package store gives each kind its place in etcd: one shared client, one compactor, the key layout of upstream
// (so that a snapshot can move between the two), protobuf, and a watch cache for all kinds but events.
package store

import (
	"context"
	"fmt"
	"path"
	"sync"
	"time"

	"go.etcd.io/etcd/client/v3/kubernetes"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/registry/generic"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-base/compatibility"
)

const (
	// Prefix is the root of all keys, upstream's default.
	Prefix          = "/registry"
	protobuf        = "application/vnd.kubernetes.protobuf"
	compactInterval = 5 * time.Minute
	deleteWorkers   = 1
)

// keyPrefixes are the places of upstream that differ from "<resource>" or "<group>/<resource>".
func keyPrefixes() map[schema.GroupResource]string {
	return map[schema.GroupResource]string{
		{Resource: "replicationcontrollers"}:                "controllers",
		{Resource: "endpoints"}:                             "services/endpoints",
		{Resource: "nodes"}:                                 "minions",
		{Resource: "services"}:                              "services/specs",
		{Group: "networking.k8s.io", Resource: "ingresses"}: "ingress",
	}
}

// Config is what all stores share. All fields are required.
type Config struct {
	Client  *kubernetes.Client
	Scheme  *runtime.Scheme
	Codecs  serializer.CodecFactory
	Version compatibility.EffectiveVersion
	// Tracker counts objects, for priority and fairness.
	Tracker flowcontrolrequest.StorageObjectCountTracker
}

// Stores makes the storage of kinds. It implements generic.RESTOptionsGetter.
type Stores struct {
	client    *kubernetes.Client
	factory   *serverstorage.DefaultStorageFactory
	compactor compactor
	tracker   flowcontrolrequest.StorageObjectCountTracker

	mu sync.Mutex
	// filling are the watch caches that WaitReady has still to wait for; nil afterwards.
	filling []*cacher.Cacher
	waited  bool
}

// compactor forgets old revisions of keys.
type compactor interface {
	etcd3.Compactor
	Stop()
}

// New starts the compactor; it opens no connection of its own.
func New(cfg Config) *Stores {
	base := storagebackend.NewDefaultConfig(Prefix, nil)
	base.CountMetricPollPeriod = 0
	base.StorageObjectCountTracker = cfg.Tracker
	encoding := serverstorage.NewDefaultResourceEncodingConfigForEffectiveVersion(cfg.Scheme, cfg.Version)
	f := serverstorage.NewDefaultStorageFactory(*base, protobuf, cfg.Codecs, encoding, serverstorage.NewResourceConfig(), keyPrefixes())
	f.AddCohabitatingResources(schema.GroupResource{Resource: "events"}, schema.GroupResource{Group: "events.k8s.io", Resource: "events"})
	return &Stores{
		client:    cfg.Client,
		factory:   f,
		compactor: etcd3.StartCompactorPerEndpoint(cfg.Client.Client, compactInterval),
		tracker:   cfg.Tracker,
	}
}

// GetRESTOptions implements generic.RESTOptionsGetter.
func (s *Stores) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	cfg, err := s.factory.NewConfig(resource, example)
	if err != nil {
		return generic.RESTOptions{}, fmt.Errorf("storage of %s: %w", resource, err)
	}
	opts := s.options(cfg, s.factory.ResourcePrefix(resource), s.cached)
	if resource.Resource == "events" {
		opts.Decorator = s.raw
	}
	return opts, nil
}

func (s *Stores) options(cfg *storagebackend.ConfigForResource, prefix string, d generic.StorageDecorator) generic.RESTOptions {
	return generic.RESTOptions{
		StorageConfig:             cfg,
		Decorator:                 d,
		EnableGarbageCollection:   true,
		DeleteCollectionWorkers:   deleteWorkers,
		ResourcePrefix:            prefix,
		StorageObjectCountTracker: s.tracker,
	}
}

// CustomResources is the place of objects of custom kinds: JSON, watch-cached.
func (s *Stores) CustomResources() generic.RESTOptionsGetter { return customResources{s} }

type customResources struct{ s *Stores }

func (c customResources) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	cfg := c.s.factory.StorageConfig
	cfg.Codec = unstructured.UnstructuredJSONScheme
	return c.s.options(cfg.ForResource(resource), path.Join(resource.Group, resource.Resource), c.s.cached), nil
}

// Definitions is the place of the definitions of custom kinds, which have a codec of their own.
func (s *Stores) Definitions(resource schema.GroupResource, codec runtime.Codec) (generic.RESTOptions, error) {
	cfg := s.factory.StorageConfig
	cfg.Codec = codec
	return s.options(cfg.ForResource(resource), path.Join(resource.Group, resource.Resource), s.cached), nil
}

func (s *Stores) note(c *cacher.Cacher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.waited {
		s.filling = append(s.filling, c)
	}
}

// WaitReady returns when the watch caches made so far are filled. A watch of one that is not is told to come back after a second,
// which would be most of the time a start takes.
func (s *Stores) WaitReady(ctx context.Context) error {
	s.mu.Lock()
	filling := s.filling
	s.filling, s.waited = nil, true
	s.mu.Unlock()
	for _, c := range filling {
		if err := c.Wait(ctx); err != nil {
			return fmt.Errorf("fill the watch caches: %w", err)
		}
	}
	return nil
}

// Close stops the compactor. The stores of kinds are closed by those who got them.
func (s *Stores) Close() { s.compactor.Stop() }

// Check asks etcd for a key; it fails while the member cannot serve linearizable reads.
func (s *Stores) Check(ctx context.Context) error {
	if _, err := s.client.KV.Get(ctx, path.Join(Prefix, "health")); err != nil {
		return fmt.Errorf("read from etcd: %w", err)
	}
	return nil
}

// raw is a generic.StorageDecorator over the shared client.
func (s *Stores) raw(cfg *storagebackend.ConfigForResource, prefix string, _ func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, _ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	transformer := cfg.Transformer
	if transformer == nil {
		transformer = identity.NewEncryptCheckTransformer()
	}
	versioner := storage.APIObjectVersioner{}
	st, err := etcd3.New(s.client, s.compactor, cfg.Codec, newFunc, newListFunc, cfg.Prefix, prefix, cfg.GroupResource,
		transformer, cfg.LeaseManagerConfig, etcd3.NewDefaultDecoder(cfg.Codec, versioner), versioner)
	if err != nil {
		return nil, nil, fmt.Errorf("storage of %s: %w", cfg.GroupResource, err)
	}
	var once sync.Once
	return st, func() { once.Do(st.Close) }, nil
}

// cached is a generic.StorageDecorator that puts a watch cache before raw.
func (s *Stores) cached(cfg *storagebackend.ConfigForResource, prefix string, keyFunc func(runtime.Object) (string, error),
	newFunc, newListFunc func() runtime.Object, attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers,
) (storage.Interface, factory.DestroyFunc, error) {
	raw, destroy, err := s.raw(cfg, prefix, nil, newFunc, newListFunc, nil, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	c, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             raw,
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       cfg.GroupResource,
		EventsHistoryWindow: cfg.EventsHistoryWindow,
		ResourcePrefix:      prefix,
		KeyFunc:             keyFunc,
		NewFunc:             newFunc,
		NewListFunc:         newListFunc,
		GetAttrsFunc:        attrs,
		IndexerFuncs:        triggers,
		Indexers:            indexers,
		Codec:               cfg.Codec,
	})
	if err != nil {
		destroy()
		return nil, nil, fmt.Errorf("watch cache of %s: %w", cfg.GroupResource, err)
	}
	delegator := cacher.NewCacheDelegator(c, raw)
	s.note(c)
	var once sync.Once
	return delegator, func() {
		once.Do(func() {
			delegator.Stop()
			c.Stop()
			destroy()
		})
	}, nil
}
