package addons

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-node/skiff/controlplane/pki"
)

// Roles writes the roles and bindings of skiff's own parts, beside those that every API server brings: what the
// cluster's DNS may read, and how a node with a bootstrap token gets its certificates (as kubeadm sets it up).
type Roles struct {
	Client kubernetes.Interface
}

// Run writes them once; the API keeps them. A user's own rules in roles of these names are replaced at each start.
func (r Roles) Run(ctx context.Context) {
	for {
		err := r.pass(ctx)
		if err != nil && ctx.Err() == nil {
			slog.Warn("RBAC addon", "err", err)
			select {
			case <-time.After(retry):
				continue
			case <-ctx.Done():
			}
		}
		<-ctx.Done()
		return
	}
}

func (r Roles) pass(ctx context.Context) error {
	for _, want := range roles() {
		if err := r.role(ctx, want); err != nil {
			return fmt.Errorf("role %s: %w", want.Name, err)
		}
	}
	for _, want := range bindings() {
		if err := r.binding(ctx, want); err != nil {
			return fmt.Errorf("binding %s: %w", want.Name, err)
		}
	}
	return nil
}

func (r Roles) role(ctx context.Context, want *rbacv1.ClusterRole) error {
	api := r.Client.RbacV1().ClusterRoles()
	have, err := api.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Rules, want.Rules) {
		return err
	}
	have.Rules = want.Rules
	_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func (r Roles) binding(ctx context.Context, want *rbacv1.ClusterRoleBinding) error {
	api := r.Client.RbacV1().ClusterRoleBindings()
	have, err := api.Get(ctx, want.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	if err != nil || equality.Semantic.DeepEqual(have.Subjects, want.Subjects) && have.RoleRef == want.RoleRef {
		return err
	}
	if have.RoleRef != want.RoleRef { // which cannot be changed
		if err := api.Delete(ctx, want.Name, metav1.DeleteOptions{}); err != nil {
			return err
		}
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
		return err
	}
	have.Subjects = want.Subjects
	_, err = api.Update(ctx, have, metav1.UpdateOptions{})
	return err
}

func roles() []*rbacv1.ClusterRole {
	read := []string{"get", "list", "watch"}
	return []*rbacv1.ClusterRole{{
		ObjectMeta: metav1.ObjectMeta{Name: "skiff:dns"},
		Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"services", "namespaces", "endpoints", "pods", "nodes"}, Verbs: read},
			{APIGroups: []string{"discovery.k8s.io"}, Resources: []string{"endpointslices"}, Verbs: read},
		},
	}}
}

func bindings() []*rbacv1.ClusterRoleBinding {
	bind := func(name, role, kind, subject string) *rbacv1.ClusterRoleBinding {
		return &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: kind, Name: subject}},
		}
	}
	const joining = "system:bootstrappers:skiff:nodes"
	return []*rbacv1.ClusterRoleBinding{
		bind("skiff:dns", "skiff:dns", rbacv1.UserKind, pki.DNSUser),
		bind("skiff:node-bootstrapper", "system:node-bootstrapper", rbacv1.GroupKind, joining),
		bind("skiff:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", rbacv1.GroupKind, joining),
		bind("skiff:node-autoapprove-rotation", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", rbacv1.GroupKind, "system:nodes"),
	}
}
