// Package token gets service account tokens for projected volumes and renews them in time: when 80 % of their life is
// over, or 24 hours, whichever is first. A token is bound to its pod; it stops to count when the pod is gone.
package token

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// maxAge is the age at which even a long-lived token is renewed; jitter spreads the renewals of many pods.
const (
	maxAge = 24 * time.Hour
	jitter = 10 * time.Second
)

// Config is what a Source needs.
type Config struct {
	Client kubernetes.Interface
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Log receives renewals that failed while the old token still counts. May be nil.
	Log *slog.Logger
}

// Source hands out tokens and remembers them until they are to be renewed. It is safe for concurrent use.
type Source struct {
	cfg Config

	mu     sync.Mutex
	tokens map[key]held
}

type key struct {
	pod, account, audience string
	uid                    types.UID // of the account, where it must be that one
	seconds                int64
}

type held struct {
	token          string
	renew, expires time.Time
}

// New returns a source without tokens.
func New(cfg Config) *Source {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{cfg: cfg, tokens: map[key]held{}}
}

// Token returns a token that counts for the pod's service account. When the server gives no new one, the old one is
// returned for as long as it counts.
func (s *Source) Token(ctx context.Context, pod *v1.Pod, want *v1.ServiceAccountTokenProjection) (string, error) {
	got, err := s.Request(ctx, pod, want)
	return got.Token, err
}

// AccountToken returns a token that counts for the pod's service account only as long as that has this UID.
func (s *Source) AccountToken(ctx context.Context, pod *v1.Pod, account types.UID, audience string) (string, error) {
	got, err := s.get(ctx, pod, key{pod: string(pod.UID), account: pod.Namespace + "/" + pod.Spec.ServiceAccountName, uid: account, audience: audience, seconds: 3600})
	return got.Token, err
}

// Request is Token for those who also have to know when the token expires.
func (s *Source) Request(ctx context.Context, pod *v1.Pod, want *v1.ServiceAccountTokenProjection) (authv1.TokenRequestStatus, error) {
	k := key{pod: string(pod.UID), account: pod.Namespace + "/" + pod.Spec.ServiceAccountName, audience: want.Audience, seconds: 3600}
	if want.ExpirationSeconds != nil {
		k.seconds = *want.ExpirationSeconds
	}
	return s.get(ctx, pod, k)
}

// get returns the token that is held, or a new one when it is time.
func (s *Source) get(ctx context.Context, pod *v1.Pod, k key) (authv1.TokenRequestStatus, error) {
	if s.cfg.Client == nil {
		return authv1.TokenRequestStatus{}, fmt.Errorf("a service account token needs an API server and this kubelet has none")
	}
	now := s.cfg.Now()
	s.mu.Lock()
	have, ok := s.tokens[k]
	s.mu.Unlock()
	if ok && now.Before(have.renew) {
		return have.status(), nil
	}
	fresh, err := s.request(ctx, pod, k)
	if err != nil {
		if ok && now.Before(have.expires) {
			s.cfg.Log.Warn("service account token could not be renewed; the old one is kept while it counts", "pod", k.pod, "err", err)
			return have.status(), nil
		}
		return authv1.TokenRequestStatus{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	s.mu.Lock()
	s.tokens[k] = fresh
	s.mu.Unlock()
	return fresh.status(), nil
}

func (h held) status() authv1.TokenRequestStatus {
	return authv1.TokenRequestStatus{Token: h.token, ExpirationTimestamp: metav1.NewTime(h.expires)}
}

func (s *Source) request(ctx context.Context, pod *v1.Pod, k key) (held, error) {
	req := &authv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{UID: k.uid}, Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &k.seconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if k.audience != "" {
		req.Spec.Audiences = []string{k.audience}
	}
	got, err := s.cfg.Client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, req, metav1.CreateOptions{})
	if err != nil {
		return held{}, err
	}
	expires := got.Status.ExpirationTimestamp.Time
	seconds := k.seconds
	if got.Spec.ExpirationSeconds != nil { // the server may have shortened it
		seconds = *got.Spec.ExpirationSeconds
	}
	life := time.Duration(seconds) * time.Second
	return held{token: got.Status.Token, expires: expires, renew: renewal(expires, life)}, nil
}

// renewal is when a token that expires then, after living for life, is to be replaced.
func renewal(expires time.Time, life time.Duration) time.Time {
	at := expires.Add(-life / 5)
	if oldest := expires.Add(-life).Add(maxAge); oldest.Before(at) {
		at = oldest
	}
	return at.Add(-rand.N(jitter))
}

// Forget drops the tokens of the pod.
func (s *Source) Forget(pod string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.tokens {
		if k.pod == pod {
			delete(s.tokens, k)
		}
	}
}
