package auth

import (
	"context"
	"fmt"
	"sync/atomic"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/kubernetes/pkg/auth/nodeidentifier"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/node"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// Authorizer is the union of: members of system:masters may do all; nodes may do what concerns their pods; RBAC.
type Authorizer struct {
	authorizer.Authorizer
	authorizer.RuleResolver
	policy *policy
}

// NewAuthorizer reads roles, bindings, and what nodes may see, from the informers.
func NewAuthorizer(f informers.SharedInformerFactory) (*Authorizer, error) {
	p := newPolicy(f)
	graph := node.NewGraph()
	node.AddGraphEventHandlers(graph, f.Core().V1().Nodes(), f.Core().V1().Pods(), f.Core().V1().PersistentVolumes(),
		f.Storage().V1().VolumeAttachments(), f.Resource().V1().ResourceSlices(), f.Certificates().V1().PodCertificateRequests())
	rules := rbac.New(p, p, p, p)
	nodes := node.NewAuthorizer(graph, nodeidentifier.NewDefaultNodeIdentifier(), bootstrappolicy.NodeRules())
	all, err := union.New(
		union.NamedAuthorizer{AuthorizerName: "masters", Authorizer: authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup)},
		union.NamedAuthorizer{AuthorizerName: "node", Authorizer: nodes},
		union.NamedAuthorizer{AuthorizerName: "rbac", Authorizer: rules},
	)
	if err != nil {
		return nil, fmt.Errorf("authorizers: %w", err)
	}
	return &Authorizer{Authorizer: all, RuleResolver: rules, policy: p}, nil
}

// Seeded says that the default roles and bindings are stored: from now on only what is stored counts, so that an
// administrator can take rights away.
func (a *Authorizer) Seeded() { a.policy.seeded.Store(true) }

// policy answers from the informers' caches, and from upstream's default policy for as long as that is not stored.
// A server thus never has to wait for 127 writes before its own components may work.
type policy struct {
	roles               rbaclisters.RoleLister
	roleBindings        rbaclisters.RoleBindingLister
	clusterRoles        rbaclisters.ClusterRoleLister
	clusterRoleBindings rbaclisters.ClusterRoleBindingLister

	seeded   atomic.Bool
	defaults defaults
}

// defaults is upstream's policy, by name.
type defaults struct {
	roles               map[string]*rbacv1.Role
	roleBindings        map[string][]*rbacv1.RoleBinding
	clusterRoles        map[string]*rbacv1.ClusterRole
	clusterRoleBindings []*rbacv1.ClusterRoleBinding
}

func newPolicy(f informers.SharedInformerFactory) *policy {
	api := f.Rbac().V1()
	return &policy{
		roles: api.Roles().Lister(), roleBindings: api.RoleBindings().Lister(),
		clusterRoles: api.ClusterRoles().Lister(), clusterRoleBindings: api.ClusterRoleBindings().Lister(),
		defaults: newDefaults(),
	}
}

func newDefaults() defaults {
	d := defaults{
		roles: map[string]*rbacv1.Role{}, roleBindings: map[string][]*rbacv1.RoleBinding{}, clusterRoles: map[string]*rbacv1.ClusterRole{},
	}
	for _, r := range ClusterRoles() {
		d.clusterRoles[r.Name] = &r
	}
	for _, b := range ClusterRoleBindings() {
		d.clusterRoleBindings = append(d.clusterRoleBindings, &b)
	}
	for namespace, roles := range Roles() {
		for _, r := range roles {
			d.roles[namespace+"/"+r.Name] = &r
		}
	}
	for namespace, bindings := range RoleBindings() {
		for _, b := range bindings {
			d.roleBindings[namespace] = append(d.roleBindings[namespace], &b)
		}
	}
	return d
}

// GetRole implements validation.RoleGetter.
func (p *policy) GetRole(_ context.Context, namespace, name string) (*rbacv1.Role, error) {
	r, err := p.roles.Roles(namespace).Get(name)
	if d := p.defaults.roles[namespace+"/"+name]; d != nil && p.missing(err) {
		return d, nil
	}
	return r, err
}

// GetClusterRole implements validation.ClusterRoleGetter.
func (p *policy) GetClusterRole(_ context.Context, name string) (*rbacv1.ClusterRole, error) {
	r, err := p.clusterRoles.Get(name)
	if d := p.defaults.clusterRoles[name]; d != nil && p.missing(err) {
		return d, nil
	}
	return r, err
}

func (p *policy) missing(err error) bool {
	return apierrors.IsNotFound(err) && !p.seeded.Load()
}

// ListRoleBindings implements validation.RoleBindingLister.
func (p *policy) ListRoleBindings(_ context.Context, namespace string) ([]*rbacv1.RoleBinding, error) {
	stored, err := p.roleBindings.RoleBindings(namespace).List(labels.Everything())
	if err != nil || p.seeded.Load() {
		return stored, err
	}
	return merge(stored, p.defaults.roleBindings[namespace], func(b *rbacv1.RoleBinding) string { return b.Name }), nil
}

// ListClusterRoleBindings implements validation.ClusterRoleBindingLister.
func (p *policy) ListClusterRoleBindings(context.Context) ([]*rbacv1.ClusterRoleBinding, error) {
	stored, err := p.clusterRoleBindings.List(labels.Everything())
	if err != nil || p.seeded.Load() {
		return stored, err
	}
	return merge(stored, p.defaults.clusterRoleBindings, func(b *rbacv1.ClusterRoleBinding) string { return b.Name }), nil
}

// merge adds those defaults that are not stored under their name.
func merge[T any](stored, defaults []T, name func(T) string) []T {
	have := make(map[string]bool, len(stored))
	for _, s := range stored {
		have[name(s)] = true
	}
	out := append([]T(nil), stored...)
	for _, d := range defaults {
		if !have[name(d)] {
			out = append(out, d)
		}
	}
	return out
}
