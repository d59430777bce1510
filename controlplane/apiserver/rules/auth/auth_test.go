package auth

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

func TestBootstrapTokens(t *testing.T) {
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	good := func() *corev1.Secret {
		return &corev1.Secret{Type: bootstrapSecretType, Data: map[string][]byte{
			"token-id": []byte("abcdef"), "token-secret": []byte("0123456789abcdef"), "usage-bootstrap-authentication": []byte("true"),
			"auth-extra-groups": []byte("system:bootstrappers:workers"), "expiration": []byte("2030-01-01T00:00:01Z"),
		}}
	}
	for name, tc := range map[string]struct {
		change func(*corev1.Secret)
		ok     bool
	}{
		"good":           {func(*corev1.Secret) {}, true},
		"no end":         {func(s *corev1.Secret) { delete(s.Data, "expiration") }, true},
		"ended":          {func(s *corev1.Secret) { s.Data["expiration"] = []byte("2030-01-01T00:00:00Z") }, false},
		"unreadable end": {func(s *corev1.Secret) { s.Data["expiration"] = []byte("tomorrow") }, false},
		"other secret":   {func(s *corev1.Secret) { s.Data["token-secret"] = []byte("x") }, false},
		"other id":       {func(s *corev1.Secret) { s.Data["token-id"] = []byte("x") }, false},
		"other type":     {func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque }, false},
		"not for this":   {func(s *corev1.Secret) { delete(s.Data, "usage-bootstrap-authentication") }, false},
		"being deleted":  {func(s *corev1.Secret) { s.DeletionTimestamp = &metav1.Time{Time: now} }, false},
		"group of power": {func(s *corev1.Secret) { s.Data["auth-extra-groups"] = []byte("system:masters") }, false},
	} {
		s := good()
		tc.change(s)
		if _, ok := bootstrapUse(s, "abcdef", "0123456789abcdef", now); ok != tc.ok {
			t.Errorf("%s: %v", name, ok)
		}
	}
	for _, token := range []string{"", "abcdef", "abcdef.0123456789abcdeF", "abcde.0123456789abcdeff", "eyJhbGciOi.J9.x"} {
		if _, _, ok := parseBootstrapToken(token); ok {
			t.Errorf("%q was taken for a bootstrap token", token)
		}
	}
}

// TestDefaultsUntilStored answers from upstream's policy until that is stored, and only from what is stored afterwards.
func TestDefaultsUntilStored(t *testing.T) {
	f := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	p := newPolicy(f)
	if r, err := p.GetClusterRole(t.Context(), "cluster-admin"); err != nil || len(r.Rules) == 0 {
		t.Fatalf("cluster-admin: %v", err)
	}
	changed := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "cluster-admin"}}
	if err := f.Rbac().V1().ClusterRoles().Informer().GetStore().Add(changed); err != nil {
		t.Fatal(err)
	}
	if r, err := p.GetClusterRole(t.Context(), "cluster-admin"); err != nil || len(r.Rules) != 0 {
		t.Errorf("the stored role does not count: %v, %v", err, r)
	}
	before, err := p.ListClusterRoleBindings(t.Context())
	if err != nil || len(before) < 10 {
		t.Errorf("bindings: %v, %d", err, len(before))
	}
	p.seeded.Store(true)
	if after, err := p.ListClusterRoleBindings(t.Context()); err != nil || len(after) != 0 {
		t.Errorf("bindings once stored: %v, %d", err, len(after))
	}
	if _, err := p.GetClusterRole(t.Context(), "view"); err == nil {
		t.Error("a deleted default role still counts")
	}
}
