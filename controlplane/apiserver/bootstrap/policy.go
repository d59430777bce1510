package bootstrap

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/reconciliation"

	"github.com/skiff-node/skiff/controlplane/apiserver/rules/auth"
)

// writers bounds how many of the default objects are written at once: they must not starve the first real requests.
const writers = 4

func (b *Bootstrap) priorityClasses(ctx context.Context) error {
	for _, c := range auth.PriorityClasses() {
		if _, err := b.cfg.Client.SchedulingV1().PriorityClasses().Create(ctx, c.DeepCopy(), metav1.CreateOptions{}); present(err) != nil {
			return fmt.Errorf("create priority class %s: %w", c.Name, err)
		}
	}
	return nil
}

// roles writes the default policy. What is stored already is only added to, as upstream does, and left alone where
// it carries the annotation rbac.authorization.kubernetes.io/autoupdate=false.
func (b *Bootstrap) roles(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	api := b.cfg.Client.RbacV1()
	for _, r := range auth.ClusterRoles() {
		g.Go(func() error {
			_, err := api.ClusterRoles().Create(ctx, &r, metav1.CreateOptions{})
			return orReconcile(err, "cluster role "+r.Name, b.reconcileRole(reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}))
		})
	}
	for _, r := range auth.ClusterRoleBindings() {
		g.Go(func() error {
			_, err := api.ClusterRoleBindings().Create(ctx, &r, metav1.CreateOptions{})
			return orReconcile(err, "cluster role binding "+r.Name, b.reconcileBinding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &r}))
		})
	}
	for namespace, roles := range auth.Roles() {
		for _, r := range roles {
			g.Go(func() error {
				_, err := api.Roles(namespace).Create(ctx, &r, metav1.CreateOptions{})
				return orReconcile(err, "role "+namespace+"/"+r.Name, b.reconcileRole(reconciliation.RoleRuleOwner{Role: &r}))
			})
		}
	}
	for namespace, bindings := range auth.RoleBindings() {
		for _, r := range bindings {
			g.Go(func() error {
				_, err := api.RoleBindings(namespace).Create(ctx, &r, metav1.CreateOptions{})
				return orReconcile(err, "role binding "+namespace+"/"+r.Name, b.reconcileBinding(reconciliation.RoleBindingAdapter{RoleBinding: &r}))
			})
		}
	}
	if err := g.Wait(); err != nil {
		return err
	}
	b.cfg.Seeded()
	return nil
}

// orReconcile turns "exists already" into a comparison.
func orReconcile(err error, what string, reconcile func() error) error {
	if apierrors.IsAlreadyExists(err) {
		err = reconcile()
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", what, err)
	}
	return nil
}

func (b *Bootstrap) reconcileRole(want reconciliation.RuleOwner) func() error {
	var client reconciliation.RuleOwnerModifier = reconciliation.ClusterRoleModifier{Client: b.cfg.Client.RbacV1().ClusterRoles()}
	if want.GetNamespace() != "" {
		client = reconciliation.RoleModifier{Client: b.cfg.Client.RbacV1(), NamespaceClient: b.cfg.Client.CoreV1().Namespaces()}
	}
	return func() error {
		_, err := (&reconciliation.ReconcileRoleOptions{Role: want, Client: client, Confirm: true}).Run()
		return err
	}
}

func (b *Bootstrap) reconcileBinding(want reconciliation.RoleBinding) func() error {
	var client reconciliation.RoleBindingModifier = reconciliation.ClusterRoleBindingClientAdapter{Client: b.cfg.Client.RbacV1().ClusterRoleBindings()}
	if want.GetNamespace() != "" {
		client = reconciliation.RoleBindingClientAdapter{Client: b.cfg.Client.RbacV1(), NamespaceClient: b.cfg.Client.CoreV1().Namespaces()}
	}
	return func() error {
		_, err := (&reconciliation.ReconcileRoleBindingOptions{RoleBinding: want, Client: client, Confirm: true}).Run()
		return err
	}
}

// authentication publishes whom this server believes, for extension API servers such as metrics-server.
func (b *Bootstrap) authentication(ctx context.Context) error {
	want := map[string]string{}
	ca, err := os.ReadFile(b.cfg.ClientCA)
	if err != nil {
		return fmt.Errorf("read client CA: %w", err)
	}
	want["client-ca-file"] = string(ca)
	if b.cfg.FrontProxyCA != "" {
		ca, err := os.ReadFile(b.cfg.FrontProxyCA)
		if err != nil {
			return fmt.Errorf("read front-proxy CA: %w", err)
		}
		want["requestheader-client-ca-file"] = string(ca)
		for key, list := range map[string][]string{
			"requestheader-username-headers": {"X-Remote-User"}, "requestheader-uid-headers": {"X-Remote-Uid"},
			"requestheader-group-headers": {"X-Remote-Group"}, "requestheader-extra-headers-prefix": {"X-Remote-Extra-"},
			"requestheader-allowed-names": b.cfg.FrontProxyNames,
		} {
			text, err := json.Marshal(list)
			if err != nil {
				return err
			}
			want[key] = string(text)
		}
	}
	return b.configMap(ctx, "extension-apiserver-authentication", want)
}

func (b *Bootstrap) configMap(ctx context.Context, name string, data map[string]string) error {
	api := b.cfg.Client.CoreV1().ConfigMaps(metav1.NamespaceSystem)
	have, err := api.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
	case err == nil && !equality.Semantic.DeepEqual(have.Data, data):
		have.Data = data
		_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write config map %s: %w", name, err)
	}
	return nil
}
