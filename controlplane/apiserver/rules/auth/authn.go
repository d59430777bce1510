// Package auth decides who a request comes from and what it may do, with upstream's authenticators and authorizers.
package auth

import (
	"context"
	"fmt"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/util/keyutil"
	"k8s.io/kubernetes/pkg/serviceaccount"
)

// tokenCacheTTL is how long a verified token is believed without looking again, upstream's default.
const tokenCacheTTL = 10 * time.Second

// Accounts are the files and names of service-account tokens.
type Accounts struct {
	// SigningKey is the PEM file of the private key that signs tokens.
	SigningKey string
	// PublicKeys are the PEM files of keys that tokens may be signed with; the signing key's own is always accepted.
	PublicKeys []string
	// Issuers are the accepted issuers; the first one signs.
	Issuers []string
}

// Tokens is what signs and what verifies service-account tokens.
type Tokens struct {
	Issuer serviceaccount.TokenGenerator
	Keys   serviceaccount.PublicKeysGetter
	Names  []string
}

// NewTokens reads the keys.
func NewTokens(a Accounts) (Tokens, error) {
	private, err := keyutil.PrivateKeyFromFile(a.SigningKey)
	if err != nil {
		return Tokens{}, fmt.Errorf("read service-account signing key: %w", err)
	}
	issuer, err := serviceaccount.JWTTokenGenerator(a.Issuers[0], private)
	if err != nil {
		return Tokens{}, fmt.Errorf("service-account signing key %s: %w", a.SigningKey, err)
	}
	public := []any{private}
	for _, file := range a.PublicKeys {
		keys, err := keyutil.PublicKeysFromFile(file)
		if err != nil {
			return Tokens{}, fmt.Errorf("read service-account public keys: %w", err)
		}
		public = append(public, keys...)
	}
	getter, err := serviceaccount.StaticPublicKeysGetter(public)
	if err != nil {
		return Tokens{}, fmt.Errorf("service-account public keys: %w", err)
	}
	return Tokens{Issuer: issuer, Keys: getter, Names: a.Issuers}, nil
}

// Authn says whom to believe.
type Authn struct {
	ClientCA  dynamiccertificates.CAContentProvider     // of clients alone: whom the front proxy's authority signs is nobody by himself
	Proxy     *authenticatorfactory.RequestHeaderConfig // optional
	Tokens    Tokens
	Audiences authenticator.Audiences
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
}

// NewAuthenticator tries, in upstream's order: front proxy, client certificate, service-account token, bootstrap token,
// and lets the rest be anonymous.
func NewAuthenticator(c Authn) authenticator.Request {
	var requests []authenticator.Request
	if c.Proxy != nil {
		requests = append(requests, authenticator.WrapAudienceAgnosticRequest(c.Audiences, headerrequest.NewDynamicVerifyOptionsSecure(
			c.Proxy.CAContentProvider.VerifyOptions, c.Proxy.AllowedClientNames, c.Proxy.UsernameHeaders, c.Proxy.UIDHeaders,
			c.Proxy.GroupHeaders, c.Proxy.ExtraHeaderPrefixes)))
	}
	requests = append(requests, newCertificates(c.ClientCA.VerifyOptions))
	tokens := tokencache.New(tokenunion.New(
		serviceaccount.JWTTokenAuthenticator(c.Tokens.Names, c.Tokens.Keys, c.Audiences, serviceaccount.NewValidator(newObjects(c))),
		authenticator.WrapAudienceAgnosticToken(c.Audiences, &bootstrapTokens{client: c.Client, now: time.Now}),
	), true, tokenCacheTTL, 0)
	requests = append(requests, bearertoken.New(tokens), websocket.NewProtocolAuthenticator(tokens))
	known := group.NewAuthenticatedGroupAdder(union.New(requests...))
	// A wrong credential is refused, it does not make its bearer anonymous.
	return union.NewFailOnError(known, anonymous.NewAuthenticator(nil))
}

// objects finds what a token is bound to: in the informers' caches first, live where the caches are behind.
type objects struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
}

func newObjects(c Authn) *objects {
	core := c.Informers.Core().V1()
	return &objects{c.Client, core.ServiceAccounts().Lister(), core.Pods().Lister(), core.Nodes().Lister()}
}

// GetServiceAccount implements serviceaccount.ServiceAccountTokenGetter.
func (o *objects) GetServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if found, err := o.accounts.ServiceAccounts(namespace).Get(name); !apierrors.IsNotFound(err) {
		return found, err
	}
	return o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

// GetPod implements serviceaccount.ServiceAccountTokenGetter.
func (o *objects) GetPod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if found, err := o.pods.Pods(namespace).Get(name); !apierrors.IsNotFound(err) {
		return found, err
	}
	return o.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// GetNode implements serviceaccount.ServiceAccountTokenGetter.
func (o *objects) GetNode(ctx context.Context, name string) (*corev1.Node, error) {
	if found, err := o.nodes.Get(name); !apierrors.IsNotFound(err) {
		return found, err
	}
	return o.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

// GetSecret implements serviceaccount.ServiceAccountTokenGetter.
func (o *objects) GetSecret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

// GetValidatingWebhookConfiguration implements serviceaccount.ServiceAccountTokenGetter.
func (o *objects) GetValidatingWebhookConfiguration(ctx context.Context, name string) (*admissionregistrationv1.ValidatingWebhookConfiguration, error) {
	return o.client.AdmissionregistrationV1().ValidatingWebhookConfigurations().Get(ctx, name, metav1.GetOptions{})
}

// GetMutatingWebhookConfiguration implements serviceaccount.ServiceAccountTokenGetter.
func (o *objects) GetMutatingWebhookConfiguration(ctx context.Context, name string) (*admissionregistrationv1.MutatingWebhookConfiguration, error) {
	return o.client.AdmissionregistrationV1().MutatingWebhookConfigurations().Get(ctx, name, metav1.GetOptions{})
}
