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
	api := b.cfg.Client.SchedulingV1().PriorityClasses()
	for _, c := range auth.PriorityClasses() {
		_, err := api.Get(ctx, c.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = api.Create(ctx, c, metav1.CreateOptions{})
		}
		if present(err) != nil {
			return fmt.Errorf("create priority class %s: %w", c.Name, err)
		}
	}
	return nil
}

// roles writes the default policy. What is stored already is only added to, as upstream does, and left alone where
// it carries the annotation rbac.authorization.kubernetes.io/autoupdate=false. What is as it should be, as at every start but
// the first, costs four lists.
func (b *Bootstrap) roles(ctx context.Context) error {
	have, err := b.storedPolicy(ctx)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for key, write := range b.wantedPolicy(have) {
		g.Go(func() error {
			if err := write(ctx); err != nil {
				return fmt.Errorf("write %s: %w", key, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	b.cfg.Seeded()
	return nil
}

// stored is the policy in the cluster: rules or subjects by kind, namespace and name.
type stored map[string]any

func key(kind, namespace, name string) string { return kind + " " + namespace + "/" + name }

func (b *Bootstrap) storedPolicy(ctx context.Context) (stored, error) {
	api, have, cached := b.cfg.Client.RbacV1(), stored{}, metav1.ListOptions{ResourceVersion: "0"}
	clusterRoles, err := api.ClusterRoles().List(ctx, cached)
	if err != nil {
		return nil, fmt.Errorf("list cluster roles: %w", err)
	}
	for _, r := range clusterRoles.Items {
		have[key("cluster role", "", r.Name)] = r.Rules
	}
	clusterBindings, err := api.ClusterRoleBindings().List(ctx, cached)
	if err != nil {
		return nil, fmt.Errorf("list cluster role bindings: %w", err)
	}
	for _, r := range clusterBindings.Items {
		have[key("cluster role binding", "", r.Name)] = r.Subjects
	}
	roles, err := api.Roles("").List(ctx, cached)
	if err != nil {
		return nil, fmt.Errorf("list roles: %w", err)
	}
	for _, r := range roles.Items {
		have[key("role", r.Namespace, r.Name)] = r.Rules
	}
	bindings, err := api.RoleBindings("").List(ctx, cached)
	if err != nil {
		return nil, fmt.Errorf("list role bindings: %w", err)
	}
	for _, r := range bindings.Items {
		have[key("role binding", r.Namespace, r.Name)] = r.Subjects
	}
	return have, nil
}

// writes are what there is to write, by what it is.
type writes map[string]func(context.Context) error

// add plans the creation of what is missing and the comparison of what differs.
func (w writes) add(have stored, key string, want any, create func(context.Context) error, reconcile func() error) {
	old, exists := have[key]
	switch {
	case exists && equality.Semantic.DeepEqual(old, want):
	case exists:
		w[key] = func(context.Context) error { return reconcile() }
	default:
		w[key] = func(ctx context.Context) error {
			err := create(ctx)
			if apierrors.IsAlreadyExists(err) {
				return reconcile()
			}
			return err
		}
	}
}

func (b *Bootstrap) wantedPolicy(have stored) writes {
	w, api := writes{}, b.cfg.Client.RbacV1()
	for _, r := range auth.ClusterRoles() {
		w.add(have, key("cluster role", "", r.Name), r.Rules, func(ctx context.Context) error {
			_, err := api.ClusterRoles().Create(ctx, &r, metav1.CreateOptions{})
			return err
		}, b.reconcileRole(reconciliation.ClusterRoleRuleOwner{ClusterRole: &r}))
	}
	for _, r := range auth.ClusterRoleBindings() {
		w.add(have, key("cluster role binding", "", r.Name), r.Subjects, func(ctx context.Context) error {
			_, err := api.ClusterRoleBindings().Create(ctx, &r, metav1.CreateOptions{})
			return err
		}, b.reconcileBinding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: &r}))
	}
	for namespace, roles := range auth.Roles() {
		for _, r := range roles {
			w.add(have, key("role", namespace, r.Name), r.Rules, func(ctx context.Context) error {
				_, err := api.Roles(namespace).Create(ctx, &r, metav1.CreateOptions{})
				return err
			}, b.reconcileRole(reconciliation.RoleRuleOwner{Role: &r}))
		}
	}
	for namespace, bindings := range auth.RoleBindings() {
		for _, r := range bindings {
			w.add(have, key("role binding", namespace, r.Name), r.Subjects, func(ctx context.Context) error {
				_, err := api.RoleBindings(namespace).Create(ctx, &r, metav1.CreateOptions{})
				return err
			}, b.reconcileBinding(reconciliation.RoleBindingAdapter{RoleBinding: &r}))
		}
	}
	return w
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
