package apiserver

import (
	"fmt"
	"maps"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	genericapi "k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/skiff-node/skiff/controlplane/apiserver/rules"
)

// installer puts groups under paths. The library's own way (InstallAPIGroup) builds OpenAPI models of every kind first:
// 80 ms and 37 MiB at each start for what is the same each time.
type installer struct {
	server    *genericapiserver.GenericAPIServer
	config    *genericapiserver.Config
	admit     admission.Interface
	converter managedfields.TypeConverter
	addresses discovery.Addresses
}

func (i *installer) install(groups []rules.Group) error {
	for rank, g := range groups {
		if err := i.group(g, len(groups)-rank); err != nil {
			return err
		}
	}
	i.root()
	return nil
}

// root serves /apis, the list of groups, custom ones included.
func (i *installer) root() {
	m := i.server.AggregatedDiscoveryGroupManager
	both := aggregated.WrapAggregatedDiscoveryToHandler(&groupList{source: m, serializer: i.config.Serializer, addresses: i.addresses}, m, m)
	i.server.Handler.GoRestfulContainer.Add(both.GenerateWebService(genericapiserver.APIGroupPrefix, metav1.APIGroupList{}))
}

// group installs all versions of one group. Discovery lists groups by descending priority.
func (i *installer) group(g rules.Group, priority int) error {
	root := genericapiserver.APIGroupPrefix
	manager := i.server.AggregatedDiscoveryGroupManager
	if g.Name == "" {
		root, manager = genericapiserver.DefaultLegacyAPIPrefix, i.server.AggregatedLegacyDiscoveryGroupManager
	}
	listed := metav1.APIGroup{Name: g.Name}
	for rank, v := range g.Versions {
		gv := schema.GroupVersion{Group: g.Name, Version: v.Name}
		version := i.version(gv, g)
		version.Root = root
		maps.Copy(version.Storage, v.Storage)
		for _, s := range v.Storage {
			i.server.RegisterDestroyFunc(s.Destroy)
		}
		resources, _, err := version.InstallREST(i.server.Handler.GoRestfulContainer)
		if err != nil {
			return fmt.Errorf("install %s: %w", gv, err)
		}
		manager.AddGroupVersion(g.Name, apidiscoveryv2.APIVersionDiscovery{
			Version: v.Name, Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent, Resources: resources,
		})
		manager.SetGroupVersionPriority(metav1.GroupVersion{Group: g.Name, Version: v.Name}, priority, len(g.Versions)-rank)
		listed.Versions = append(listed.Versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: v.Name})
	}
	if g.Name == "" {
		i.legacyRoot()
		return nil
	}
	listed.PreferredVersion = listed.Versions[0]
	i.server.Handler.GoRestfulContainer.Add(discovery.NewAPIGroupHandler(i.config.Serializer, listed).WebService())
	return nil
}

// legacyRoot serves /api, the list of versions of the group without a name.
func (i *installer) legacyRoot() {
	plain := discovery.NewLegacyRootAPIHandler(i.addresses, i.config.Serializer, genericapiserver.DefaultLegacyAPIPrefix)
	m := i.server.AggregatedLegacyDiscoveryGroupManager
	both := aggregated.WrapAggregatedDiscoveryToHandler(plain, m, m)
	i.server.Handler.GoRestfulContainer.Add(both.GenerateWebService(genericapiserver.DefaultLegacyAPIPrefix, metav1.APIVersions{}))
}

func (i *installer) version(gv schema.GroupVersion, g rules.Group) *genericapi.APIGroupVersion {
	served := map[string][]string{}
	for _, v := range g.Versions {
		for resource := range v.Storage {
			served[resource] = append(served[resource], schema.GroupVersion{Group: g.Name, Version: v.Name}.String())
		}
	}
	scheme := rules.Scheme()
	return &genericapi.APIGroupVersion{
		GroupVersion:                gv,
		AllServedVersionsByResource: served,
		OptionsExternalVersion:      &schema.GroupVersion{Version: "v1"},
		Storage:                     map[string]restStorage{},
		ParameterCodec:              rules.ParameterCodec(),
		Serializer:                  i.config.Serializer,
		Creater:                     scheme,
		Convertor:                   scheme,
		ConvertabilityChecker:       scheme,
		UnsafeConvertor:             runtime.UnsafeObjectConvertor(scheme),
		Defaulter:                   scheme,
		Typer:                       scheme,
		Namer:                       runtime.Namer(meta.NewAccessor()),
		EquivalentResourceRegistry:  i.server.EquivalentResourceRegistry,
		TypeConverter:               i.converter,
		Admit:                       i.admit,
		Authorizer:                  i.server.Authorizer,
		MinRequestTimeout:           minRequestTimeout,
		MaxRequestBodyBytes:         i.config.MaxRequestBodyBytes,
	}
}
