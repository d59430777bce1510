package apiserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	serverstorage "k8s.io/apiserver/pkg/server/storage"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"github.com/skiff-node/skiff/controlplane/apiserver/openapi"
	"github.com/skiff-node/skiff/controlplane/apiserver/store"
)

// extensions serves custom kinds: the built-in server hands it what it does not know itself.
type extensions struct {
	*apiextensions.CustomResourceDefinitions
	docs *handler3.OpenAPIService
}

// extensions builds the server of custom kinds. It shares everything with the built-in server but its storage and its
// hooks.
func (a *assembly) extensions() (*extensions, error) {
	cfg := a.config.Config
	cfg.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	cfg.RESTOptionsGetter = definitions{a.stores}
	cfg.MergedResourceConfig = serverstorage.NewResourceConfig()
	cfg.MergedResourceConfig.EnableVersions(apiextensionsv1.SchemeGroupVersion)
	cfg.Serializer = apiextensions.Codecs
	namer := openapinamer.NewDefinitionNamer(apiextensions.Scheme)
	cfg.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(apiextensionsopenapi.GetOpenAPIDefinitions, namer)
	server, err := (&apiextensions.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: cfg},
		ExtraConfig: apiextensions.ExtraConfig{
			CRDRESTOptionsGetter: a.stores.CustomResources(),
			MasterCount:          1,
			ServiceResolver:      newServiceResolver(a.config.SharedInformerFactory),
			AuthResolverWrapper:  webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, cfg.LoopbackClientConfig, cfg.TracerProvider),
		},
	}).Complete().New(genericapiserver.NewEmptyDelegate())
	if err != nil {
		return nil, fmt.Errorf("API server: custom kinds: %w", err)
	}
	// The library publishes the schemas of custom kinds into whatever service stands here when its hooks run. The empty
	// document of v2 is what it takes for "OpenAPI is on".
	docs := handler3.NewOpenAPIService()
	server.GenericAPIServer.OpenAPIV3VersionedService = docs
	server.GenericAPIServer.StaticOpenAPISpec = &spec.Swagger{}
	return &extensions{CustomResourceDefinitions: server, docs: docs}, nil
}

// definitions stores the definitions of custom kinds, whose types are in a scheme of their own.
type definitions struct{ *store.Stores }

// GetRESTOptions implements generic.RESTOptionsGetter.
func (d definitions) GetRESTOptions(resource schema.GroupResource, _ runtime.Object) (generic.RESTOptions, error) {
	return d.Definitions(resource, apiextensions.Codecs.LegacyCodec(apiextensionsv1.SchemeGroupVersion))
}

var _ openapi.Dynamic = (*extensions)(nil)

// Index implements openapi.Dynamic.
func (e *extensions) Index() (map[string]string, error) {
	w := httptest.NewRecorder()
	r, err := http.NewRequest(http.MethodGet, "/openapi/v3", http.NoBody)
	if err != nil {
		return nil, err
	}
	e.docs.HandleDiscovery(w, r)
	var index struct {
		Paths map[string]struct {
			ServerRelativeURL string `json:"serverRelativeURL"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &index); err != nil {
		return nil, fmt.Errorf("index of the documents of custom kinds: %w", err)
	}
	out := map[string]string{}
	for p, e := range index.Paths {
		out[p] = e.ServerRelativeURL
	}
	return out, nil
}

// ServeHTTP implements openapi.Dynamic.
func (e *extensions) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	all, err := e.Index()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	if _, ok := all[strings.TrimPrefix(r.URL.Path, "/openapi/v3/")]; !ok {
		http.NotFound(w, r)
		return
	}
	e.docs.HandleGroupVersion(w, r)
}
