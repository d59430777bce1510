package credentials

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	kubeletconfig "k8s.io/kubelet/config/v1"
)

// Account is a service account, as records of pulls name it.
type Account struct{ UID, Namespace, Name string }

// Accounts knows the service accounts of pods.
type Accounts interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*v1.ServiceAccount, error)
	// AccountToken returns a token of the pod's account, which has that UID, for the audience; it is bound to the pod.
	AccountToken(ctx context.Context, pod *v1.Pod, account types.UID, audience string) (string, error)
}

// question is what the plugin is asked for the pod; nil when it is not to be asked.
func (p *plugin) question(ctx context.Context, accounts Accounts, pod *v1.Pod) (*question, error) {
	want, name := p.conf.TokenAttributes, pod.Spec.ServiceAccountName
	if want == nil {
		return &question{}, nil
	}
	if accounts == nil {
		name = "" // static pods only, which have none
	}
	if name == "" && *want.RequireServiceAccount {
		return nil, nil
	}
	if name == "" {
		return &question{}, nil
	}
	account, err := accounts.ServiceAccount(ctx, pod.Namespace, name)
	if err != nil {
		return nil, fmt.Errorf("failed to get service account: %w", err)
	}
	chosen, ok := annotations(account, want)
	if !ok {
		return nil, nil // the annotations are how an account says that it wants to be asked for
	}
	token, err := accounts.AccountToken(ctx, pod, account.UID, want.ServiceAccountTokenAudience)
	if err != nil {
		return nil, fmt.Errorf("failed to get service account token: %w", err)
	}
	return &question{account: &Account{UID: string(account.UID), Namespace: pod.Namespace, Name: name}, token: token,
		annotations: chosen, scope: scope(account, chosen, token, want.CacheType)}, nil
}

// annotations picks those that the plugin wants. ok is false when the account lacks one that is required.
func annotations(account *v1.ServiceAccount, want *kubeletconfig.ServiceAccountTokenAttributes) (chosen map[string]string, ok bool) {
	chosen = map[string]string{}
	for _, key := range want.RequiredServiceAccountAnnotationKeys {
		value, ok := account.Annotations[key]
		if !ok {
			return nil, false
		}
		chosen[key] = value
	}
	for _, key := range want.OptionalServiceAccountAnnotationKeys {
		if value, ok := account.Annotations[key]; ok {
			chosen[key] = value
		}
	}
	return chosen, true
}

// scope tells apart whose answers are remembered: those for an account with these annotations, or for one token only. Each part
// is quoted, so that no two combinations look alike.
func scope(account *v1.ServiceAccount, chosen map[string]string, token string, kind kubeletconfig.ServiceAccountTokenCacheType) string {
	parts := []string{account.Namespace, account.Name, string(account.UID)}
	var keys []string
	for key := range chosen {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		parts = append(parts, key, chosen[key])
	}
	if kind == kubeletconfig.TokenServiceAccountTokenCacheType {
		parts = append(parts, "token", hash(token))
	}
	var b strings.Builder
	for _, part := range parts {
		b.WriteString(strconv.Quote(part))
	}
	return b.String()
}

func hash(token string) string {
	if token == "" {
		return ""
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(token)))
}
