// Package store gives each kind its place in etcd: one shared client, one compactor, the key layout of upstream
// (so that a snapshot can move between the two), protobuf, and a watch cache for all kinds but events.
package store

import (
	"context"
	"fmt"
	"path"
	"slices"
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
	compactor etcd3.Compactor
	tracker   flowcontrolrequest.StorageObjectCountTracker

	mu     sync.Mutex
	caches []storage.Interface // watch caches that may not have read their kind yet
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

// Check asks etcd for a key; it fails while the member cannot serve linearizable reads.
func (s *Stores) Check(ctx context.Context) error {
	if _, err := s.client.KV.Get(ctx, path.Join(Prefix, "health")); err != nil {
		return fmt.Errorf("read from etcd: %w", err)
	}
	return nil
}

// settlePoll is how often Settle looks: caches have no channel that tells.
const settlePoll = 2 * time.Millisecond

// Settle waits until the watch caches that exist by now have read their kinds. A list before that is answered with
// "try again in a second", which is what informers then do.
func (s *Stores) Settle(ctx context.Context) error {
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	s.mu.Lock()
	waiting := s.caches
	s.caches = nil
	s.mu.Unlock()
	for {
		waiting = slices.DeleteFunc(waiting, func(c storage.Interface) bool { return c.ReadinessCheck() == nil })
		if len(waiting) == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the watch caches to fill: %w", ctx.Err())
		case <-tick.C:
		}
	}
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
	s.mu.Lock()
	s.caches = append(s.caches, delegator)
	s.mu.Unlock()
	var once sync.Once
	return delegator, func() {
		once.Do(func() {
			delegator.Stop()
			c.Stop()
			destroy()
		})
	}, nil
}
