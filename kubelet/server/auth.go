package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// authenticator finds out who sent a request.
type authenticator struct {
	cfg    Auth
	tokens cache[authnv1.UserInfo]
}

func newAuthenticator(cfg Auth) *authenticator {
	if cfg.TokenTTL == 0 {
		cfg.TokenTTL = 2 * time.Minute
	}
	return &authenticator{cfg: cfg}
}

// who tries the client certificate, then the bearer token; without either, the request is anonymous.
func (a *authenticator) who(r *http.Request) (authnv1.UserInfo, error) {
	var failed error
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && a.cfg.ClientCAs != nil {
		user, err := a.certificate(r.TLS.PeerCertificates)
		if err == nil {
			return user, nil
		}
		failed = err
	}
	if token, ok := bearer(r.Header.Get("Authorization")); ok && a.cfg.Tokens {
		user, err := a.token(r.Context(), token)
		if err == nil {
			return user, nil
		}
		failed = errors.Join(failed, err)
	}
	switch {
	case failed != nil:
		return authnv1.UserInfo{}, failed
	case r.Header.Get("Authorization") != "":
		return authnv1.UserInfo{}, errors.New("credentials of a sort that is not accepted")
	case !a.cfg.Anonymous:
		return authnv1.UserInfo{}, errors.New("no credentials")
	}
	return authnv1.UserInfo{Username: "system:anonymous", Groups: []string{"system:unauthenticated"}}, nil
}

func bearer(header string) (string, bool) {
	scheme, token, ok := strings.Cut(header, " ")
	token = strings.TrimSpace(token)
	return token, ok && strings.EqualFold(scheme, "Bearer") && token != ""
}

// certificate is the user a client certificate names: CN is the name, each O a group.
func (a *authenticator) certificate(chain []*x509.Certificate) (authnv1.UserInfo, error) {
	opts := x509.VerifyOptions{Roots: a.cfg.ClientCAs(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if opts.Roots == nil {
		return authnv1.UserInfo{}, errors.New("no authority of client certificates is known")
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(opts); err != nil {
		return authnv1.UserInfo{}, fmt.Errorf("client certificate of %q: %w", leaf.Subject.CommonName, err)
	}
	if leaf.Subject.CommonName == "" {
		return authnv1.UserInfo{}, errors.New("client certificate without a common name")
	}
	return authnv1.UserInfo{Username: leaf.Subject.CommonName, Groups: append(slices.Clone(leaf.Subject.Organization), "system:authenticated")}, nil
}

// token is the user a token stands for, by TokenReview. Refusals are not remembered: a token may be good in a moment.
func (a *authenticator) token(ctx context.Context, token string) (authnv1.UserInfo, error) {
	key := fmt.Sprintf("%x", sha256.Sum256([]byte(token)))
	if user, ok := a.tokens.get(key); ok {
		return user, nil
	}
	review := &authnv1.TokenReview{Spec: authnv1.TokenReviewSpec{Token: token}}
	got, err := a.cfg.Client.AuthenticationV1().TokenReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return authnv1.UserInfo{}, fmt.Errorf("review of a token: %w", err)
	}
	if !got.Status.Authenticated {
		return authnv1.UserInfo{}, errors.New("the token is not valid: " + got.Status.Error)
	}
	a.tokens.put(key, got.Status.User, a.cfg.TokenTTL)
	return got.Status.User, nil
}

// access is what a request wants, as the API sees it: a verb on a subresource of this node.
type access struct{ verb, node, subresource string }

// authorizer finds out whether somebody may do something.
type authorizer struct {
	cfg     Auth
	answers cache[bool]
}

func newAuthorizer(cfg Auth) *authorizer {
	if cfg.AllowTTL == 0 {
		cfg.AllowTTL = 5 * time.Minute
	}
	if cfg.DenyTTL == 0 {
		cfg.DenyTTL = 30 * time.Second
	}
	return &authorizer{cfg: cfg}
}

func (a *authorizer) may(ctx context.Context, who authnv1.UserInfo, what access) (bool, error) {
	if a.cfg.AlwaysAllow {
		return true, nil
	}
	key := fmt.Sprintf("%q %q %q %q %q", who.Username, who.UID, who.Groups, who.Extra, what)
	if allowed, ok := a.answers.get(key); ok {
		return allowed, nil
	}
	review := &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
		User: who.Username, UID: who.UID, Groups: who.Groups, Extra: map[string]authzv1.ExtraValue{},
		ResourceAttributes: &authzv1.ResourceAttributes{Verb: what.verb, Version: "v1", Resource: "nodes", Subresource: what.subresource, Name: what.node},
	}}
	for k, v := range who.Extra {
		review.Spec.Extra[k] = authzv1.ExtraValue(v)
	}
	got, err := a.cfg.Client.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review of an access: %w", err)
	}
	ttl := a.cfg.DenyTTL
	if got.Status.Allowed {
		ttl = a.cfg.AllowTTL
	}
	a.answers.put(key, got.Status.Allowed, ttl)
	return got.Status.Allowed, nil
}

func verb(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodGet:
		return "get"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return ""
}

// subresources are those of the node any of which permits the path; the finer comes first (KEP-2862).
func subresources(path string) []string {
	for _, rule := range []struct {
		path string
		subs []string
	}{
		{"/pods", []string{"pods", "proxy"}},
		{"/runningpods", []string{"pods", "proxy"}},
		{"/healthz", []string{"healthz", "proxy"}},
		{"/configz", []string{"configz", "proxy"}},
		{"/stats", []string{"stats"}},
		{"/metrics", []string{"metrics"}},
		{"/logs", []string{"log"}},
		{"/checkpoint", []string{"checkpoint"}},
		{"/statusz", []string{"statusz"}},
		{"/flagz", []string{"configz"}},
	} {
		if path == rule.path || strings.HasPrefix(path, rule.path+"/") {
			return rule.subs
		}
	}
	return []string{"proxy"}
}

// cache remembers answers for a time. It holds at most a few thousand and forgets the expired ones when full.
type cache[T any] struct {
	mu      sync.Mutex
	entries map[string]cached[T]
}

type cached[T any] struct {
	value T
	until time.Time
}

const maxCached = 4096

func (c *cache[T]) get(key string) (T, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[key]
	if !ok || time.Now().After(e.until) {
		var none T
		return none, false
	}
	return e.value, true
}

func (c *cache[T]) put(key string, value T, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if len(c.entries) >= maxCached {
		for k, e := range c.entries {
			if now.After(e.until) {
				delete(c.entries, k)
			}
		}
	}
	if c.entries == nil || len(c.entries) >= maxCached {
		c.entries = map[string]cached[T]{}
	}
	c.entries[key] = cached[T]{value, now.Add(ttl)}
}
