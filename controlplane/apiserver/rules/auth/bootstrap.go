package auth

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
)

const (
	bootstrapSecretType = "bootstrap.kubernetes.io/token"
	bootstrapGroup      = "system:bootstrappers"
)

// bootstrapTokens believes tokens of the form "abcdef.0123456789abcdef" that a Secret of kube-system describes
// (https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/). The secret is read live: such tokens are
// used once per node.
type bootstrapTokens struct {
	client kubernetes.Interface
	now    func() time.Time
}

// AuthenticateToken implements authenticator.Token. What is not a bootstrap token is left to others.
func (b *bootstrapTokens) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	id, secret, ok := parseBootstrapToken(token)
	if !ok {
		return nil, false, nil
	}
	s, err := b.client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, "bootstrap-token-"+id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read bootstrap token %s: %w", id, err)
	}
	groups, ok := bootstrapUse(s, id, secret, b.now())
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: "system:bootstrap:" + id, Groups: groups}}, true, nil
}

func parseBootstrapToken(token string) (id, secret string, ok bool) {
	// The lengths are checked first so that no regular expression runs over the usual, long tokens.
	if len(token) != 6+1+16 {
		return "", "", false
	}
	id, secret, ok = strings.Cut(token, ".")
	if !ok || len(id) != 6 {
		return "", "", false
	}
	return id, secret, regexp.MustCompile(`^[a-z0-9]+$`).MatchString(id + secret)
}

// bootstrapUse says whether the secret lets the token in, and with which groups.
func bootstrapUse(s *corev1.Secret, id, secret string, now time.Time) (groups []string, ok bool) {
	data := func(key string) string { return string(s.Data[key]) }
	switch {
	case s.DeletionTimestamp != nil, s.Type != bootstrapSecretType:
		return nil, false
	case subtle.ConstantTimeCompare([]byte(data("token-secret")), []byte(secret)) != 1, data("token-id") != id:
		return nil, false
	case data("usage-bootstrap-authentication") != "true":
		return nil, false
	}
	if text := data("expiration"); text != "" {
		if until, err := time.Parse(time.RFC3339, text); err != nil || !now.Before(until) {
			return nil, false
		}
	}
	groups = []string{bootstrapGroup}
	for g := range strings.SplitSeq(data("auth-extra-groups"), ",") {
		if g == "" {
			continue
		}
		if !strings.HasPrefix(g, bootstrapGroup+":") {
			return nil, false
		}
		groups = append(groups, g)
	}
	return groups, true
}
