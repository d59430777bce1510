package rules

import (
	"net"
	"net/http"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// Deps is what kinds need to serve more than what is stored. All fields are required unless marked.
type Deps struct {
	Getter        generic.RESTOptionsGetter
	Client        kubernetes.Interface
	Authenticator authenticator.Request
	Audiences     authenticator.Audiences
	Authorizer    authorizer.Authorizer
	Rules         authorizer.RuleResolver

	// Issuer signs service-account tokens.
	Issuer serviceaccount.TokenGenerator
	// MaxTokenAge bounds the life of tokens that are asked for; 0 means no bound.
	MaxTokenAge time.Duration

	// ServiceRanges are the ranges of service addresses, one per family; the first is the default family.
	ServiceRanges []net.IPNet
	NodePorts     utilnet.PortRange

	// Kubelet says how to reach the kubelets, for logs, exec, attach, port-forward and proxies.
	Kubelet Kubelet
	// Proxy carries the requests of the proxy subresources to pods, services and nodes.
	Proxy http.RoundTripper
}

// Kubelet is the API server as a client of kubelets: paths of PEM files.
type Kubelet struct {
	Cert, Key string
	// CA verifies the kubelets' serving certificates. Optional: without it they are not verified, as upstream's default.
	CA string
}

// Group is one API group as it is served.
type Group struct {
	Name string
	// Versions are in order of preference.
	Versions []Version
}

// Version maps the paths of a version's resources ("pods", "pods/log") to what serves them.
type Version struct {
	Name    string
	Storage map[string]rest.Storage
}
