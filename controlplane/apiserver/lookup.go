package apiserver

import (
	"fmt"
	"net"
	"net/url"
	"strconv"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/restmapper"
)

// newMapper finds the resource of a kind by discovery, asked on first use and again when a kind is unknown.
func newMapper(c kubernetes.Interface) meta.RESTMapper {
	return restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.Discovery()))
}

// serviceResolver finds webhooks that are named by their Service: at its cluster address, because this process does not ask
// the cluster's DNS.
type serviceResolver struct {
	services corelisters.ServiceLister
}

func newServiceResolver(f informers.SharedInformerFactory) *serviceResolver {
	return &serviceResolver{f.Core().V1().Services().Lister()}
}

// ResolveEndpoint implements webhook.ServiceResolver.
func (r *serviceResolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	s, err := r.services.Services(namespace).Get(name)
	if err != nil {
		return nil, fmt.Errorf("service of a webhook: %w", err)
	}
	host := s.Spec.ClusterIP
	if s.Spec.ExternalName != "" {
		host = s.Spec.ExternalName
	}
	if host == "" || host == "None" {
		return nil, fmt.Errorf("service %s/%s of a webhook has no cluster address", namespace, name)
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(int(port)))}, nil
}
