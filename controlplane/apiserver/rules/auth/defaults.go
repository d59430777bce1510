package auth

import (
	rbacv1 "k8s.io/api/rbac/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	schedulingrules "k8s.io/kubernetes/pkg/apis/scheduling/v1"
	"k8s.io/kubernetes/plugin/pkg/auth/authorizer/rbac/bootstrappolicy"
)

// ClusterRoles are the roles every cluster has, upstream's.
func ClusterRoles() []rbacv1.ClusterRole {
	return append(bootstrappolicy.ClusterRoles(), bootstrappolicy.ControllerRoles()...)
}

// ClusterRoleBindings are the bindings every cluster has.
func ClusterRoleBindings() []rbacv1.ClusterRoleBinding {
	return append(bootstrappolicy.ClusterRoleBindings(), bootstrappolicy.ControllerRoleBindings()...)
}

// Roles are the roles within namespaces that every cluster has.
func Roles() map[string][]rbacv1.Role { return bootstrappolicy.NamespaceRoles() }

// RoleBindings are the bindings within namespaces that every cluster has.
func RoleBindings() map[string][]rbacv1.RoleBinding { return bootstrappolicy.NamespaceRoleBindings() }

// PriorityClasses are the two classes of the cluster's own pods.
func PriorityClasses() []*schedulingv1.PriorityClass { return schedulingrules.SystemPriorityClasses() }
