package rules

import (
	"context"
	"fmt"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
	"k8s.io/kubernetes/pkg/apis/admissionregistration"
	"k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/rbac"
	apiresource "k8s.io/kubernetes/pkg/apis/resource"
	kubeletclient "k8s.io/kubernetes/pkg/kubelet/client"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/resolver"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicy"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingadmissionpolicybinding"
	"k8s.io/kubernetes/pkg/registry/authentication/selfsubjectreview"
	"k8s.io/kubernetes/pkg/registry/authentication/tokenreview"
	"k8s.io/kubernetes/pkg/registry/authorization/localsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/authorization/selfsubjectrulesreview"
	"k8s.io/kubernetes/pkg/registry/authorization/subjectaccessreview"
	"k8s.io/kubernetes/pkg/registry/certificates/podcertificaterequest"
	namespacestore "k8s.io/kubernetes/pkg/registry/core/namespace/storage"
	nodestore "k8s.io/kubernetes/pkg/registry/core/node/storage"
	podstore "k8s.io/kubernetes/pkg/registry/core/pod/storage"
	servicestore "k8s.io/kubernetes/pkg/registry/core/service/storage"
	serviceaccountstore "k8s.io/kubernetes/pkg/registry/core/serviceaccount/storage"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrole"
	clusterrolepolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrole/policybased"
	"k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding"
	clusterrolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/clusterrolebinding/policybased"
	"k8s.io/kubernetes/pkg/registry/rbac/role"
	rolepolicy "k8s.io/kubernetes/pkg/registry/rbac/role/policybased"
	"k8s.io/kubernetes/pkg/registry/rbac/rolebinding"
	rolebindingpolicy "k8s.io/kubernetes/pkg/registry/rbac/rolebinding/policybased"
	rbacvalidation "k8s.io/kubernetes/pkg/registry/rbac/validation"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaim"
	"k8s.io/kubernetes/pkg/registry/resource/resourceclaimtemplate"
	"k8s.io/utils/clock"
)

// The kinds below are more than rows: their subresources are transactions over several objects (binding, eviction,
// allocation of addresses, tokens). Upstream's leaf storages for them are used whole.

const kubeletPort = 10250

// addNodesAndPods adds nodes, pods, services and service accounts, which serve each other.
func (b *builder) addNodesAndPods() error {
	d := b.deps
	nodes, err := nodestore.NewStorage(d.Getter, kubeletclient.KubeletClientConfig{
		Port: kubeletPort,
		PreferredAddressTypes: []string{
			string(core.NodeInternalIP), string(core.NodeExternalIP), string(core.NodeHostName),
		},
		TLSClientConfig: kubeletclient.KubeletTLSConfig{CertFile: d.Kubelet.Cert, KeyFile: d.Kubelet.Key, CAFile: d.Kubelet.CA},
	}, d.Proxy)
	if err != nil {
		return fmt.Errorf("serve nodes: %w", err)
	}
	pods, err := podstore.NewStorage(d.Getter, nodes.KubeletConnectionInfo, d.Proxy, d.Client.PolicyV1(), d.Authorizer)
	if err != nil {
		return fmt.Errorf("serve pods: %w", err)
	}
	b.add("", "v1", map[string]rest.Storage{
		"nodes": nodes.Node, "nodes/status": nodes.Status, "nodes/proxy": nodes.Proxy,
		"pods": pods.Pod, "pods/status": pods.Status, "pods/binding": pods.Binding, "pods/eviction": pods.Eviction,
		"pods/ephemeralcontainers": pods.EphemeralContainers, "pods/resize": pods.Resize,
		"pods/log": pods.Log, "pods/exec": pods.Exec, "pods/attach": pods.Attach, "pods/portforward": pods.PortForward,
		"pods/proxy": pods.Proxy, "bindings": pods.LegacyBinding,
	})
	if err := b.addServices(pods); err != nil {
		return fmt.Errorf("serve services: %w", err)
	}
	secrets := b.storage[""]["v1"]["secrets"].(rest.Getter)
	hooks := d.Client.AdmissionregistrationV1()
	accounts, err := serviceaccountstore.NewREST(d.Getter, d.Issuer, d.Audiences, d.Authorizer, d.MaxTokenAge, pods.Pod.Store, secrets,
		nodes.Node.Store, hooks.ValidatingWebhookConfigurations(), hooks.MutatingWebhookConfigurations(), false, 0)
	if err != nil {
		return fmt.Errorf("serve service accounts: %w", err)
	}
	b.add("", "v1", map[string]rest.Storage{"serviceaccounts": accounts, "serviceaccounts/token": accounts.Token})
	return nil
}

func (b *builder) addServices(pods podstore.PodStorage) error {
	alloc, err := newAllocators(b.deps.ServiceRanges, b.deps.NodePorts)
	if err != nil {
		return err
	}
	svc, svcStatus, proxy, err := servicestore.NewREST(b.deps.Getter, alloc.primary, alloc.addresses, alloc.ports,
		serviceSlices{b.deps.Client}, pods.Pod, b.deps.Proxy)
	if err != nil {
		return err
	}
	alloc.loader.list = svc.Store.List
	b.add("", "v1", map[string]rest.Storage{"services": svc, "services/status": svcStatus, "services/proxy": proxy})
	return nil
}

// serviceSlices finds the endpoints of a service for its proxy subresource. It asks each time: the proxy is rarely used, and
// a cache of all slices would cost memory for ever.
type serviceSlices struct{ client kubernetes.Interface }

// GetEndpointSlices implements proxy.EndpointSliceGetter.
func (s serviceSlices) GetEndpointSlices(namespace, service string) ([]*discoveryv1.EndpointSlice, error) {
	list, err := s.client.DiscoveryV1().EndpointSlices(namespace).List(context.Background(), metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + service, ResourceVersion: "0",
	})
	if err != nil {
		return nil, fmt.Errorf("endpoint slices of %s/%s: %w", namespace, service, err)
	}
	var out []*discoveryv1.EndpointSlice
	for i := range list.Items {
		out = append(out, &list.Items[i])
	}
	return out, nil
}

func (b *builder) addNamespaces() error {
	ns, nsStatus, finalize, err := namespacestore.NewREST(b.deps.Getter)
	if err != nil {
		return fmt.Errorf("serve namespaces: %w", err)
	}
	b.add("", "v1", map[string]rest.Storage{"namespaces": ns, "namespaces/status": nsStatus, "namespaces/finalize": finalize})
	return nil
}

// addRBAC wraps the four kinds so that nobody grants what he does not have.
func (b *builder) addRBAC() error {
	rows := []kind{
		{resource: "roles", objects: of[rbac.Role, rbac.RoleList](), strategy: role.Strategy},
		{resource: "rolebindings", objects: of[rbac.RoleBinding, rbac.RoleBindingList](), strategy: rolebinding.Strategy},
		{resource: "clusterroles", objects: of[rbac.ClusterRole, rbac.ClusterRoleList](), strategy: clusterrole.Strategy},
		{resource: "clusterrolebindings", objects: of[rbac.ClusterRoleBinding, rbac.ClusterRoleBindingList](), strategy: clusterrolebinding.Strategy},
	}
	s := map[string]rest.StandardStorage{}
	for _, k := range rows {
		k.group = rbac.GroupName
		store, err := b.addKind(k)
		if err != nil {
			return err
		}
		s[k.resource] = store
	}
	rules := rbacvalidation.NewDefaultRuleResolver(
		role.AuthorizerAdapter{Registry: role.NewRegistry(s["roles"])},
		rolebinding.AuthorizerAdapter{Registry: rolebinding.NewRegistry(s["rolebindings"])},
		clusterrole.AuthorizerAdapter{Registry: clusterrole.NewRegistry(s["clusterroles"])},
		clusterrolebinding.AuthorizerAdapter{Registry: clusterrolebinding.NewRegistry(s["clusterrolebindings"])},
	)
	b.add(rbac.GroupName, "v1", map[string]rest.Storage{
		"roles":               rolepolicy.NewStorage(s["roles"], b.deps.Authorizer, rules),
		"rolebindings":        rolebindingpolicy.NewStorage(s["rolebindings"], b.deps.Authorizer, rules),
		"clusterroles":        clusterrolepolicy.NewStorage(s["clusterroles"], b.deps.Authorizer, rules),
		"clusterrolebindings": clusterrolebindingpolicy.NewStorage(s["clusterrolebindings"], b.deps.Authorizer, rules),
	})
	return nil
}

// addReviews adds the kinds that are questions: nothing of them is stored.
func (b *builder) addReviews() error {
	d := b.deps
	b.add("authentication.k8s.io", "v1", map[string]rest.Storage{
		"tokenreviews":       tokenreview.NewREST(d.Authenticator, d.Audiences),
		"selfsubjectreviews": selfsubjectreview.NewREST(),
	})
	b.add("authorization.k8s.io", "v1", map[string]rest.Storage{
		"subjectaccessreviews":      subjectaccessreview.NewREST(d.Authorizer, Scheme()),
		"localsubjectaccessreviews": localsubjectaccessreview.NewREST(d.Authorizer, Scheme()),
		"selfsubjectaccessreviews":  selfsubjectaccessreview.NewREST(d.Authorizer, Scheme()),
		"selfsubjectrulesreviews":   selfsubjectrulesreview.NewREST(d.Rules),
	})
	return nil
}

// addPolicies adds the admission policies; a binding is checked against its policy.
func (b *builder) addPolicies() error {
	find, err := resolver.NewDiscoveryResourceResolver(b.deps.Client.Discovery())
	if err != nil {
		return fmt.Errorf("serve admission policies: %w", err)
	}
	az, group, extensions := b.deps.Authorizer, admissionregistration.GroupName, []string{"api-extensions"}
	validating := validatingadmissionpolicy.NewStrategy(az, find)
	policies, err := b.addKind(kind{
		group: group, resource: "validatingadmissionpolicies", singular: "validatingadmissionpolicy", category: extensions,
		objects:  of[admissionregistration.ValidatingAdmissionPolicy, admissionregistration.ValidatingAdmissionPolicyList](),
		strategy: validating, sub: status(validatingadmissionpolicy.NewStatusStrategy(validating)),
	})
	if err != nil {
		return err
	}
	mutating, err := b.addKind(kind{
		group: group, resource: "mutatingadmissionpolicies", singular: "mutatingadmissionpolicy", category: extensions,
		objects:  of[admissionregistration.MutatingAdmissionPolicy, admissionregistration.MutatingAdmissionPolicyList](),
		strategy: mutatingadmissionpolicy.NewStrategy(az, find),
	})
	if err != nil {
		return err
	}
	_, err = b.addKind(kind{
		group: group, resource: "validatingadmissionpolicybindings", category: extensions,
		objects:  of[admissionregistration.ValidatingAdmissionPolicyBinding, admissionregistration.ValidatingAdmissionPolicyBindingList](),
		strategy: validatingadmissionpolicybinding.NewStrategy(az, policyGetter{policies}, find),
	})
	if err != nil {
		return err
	}
	_, err = b.addKind(kind{
		group: group, resource: "mutatingadmissionpolicybindings", category: extensions,
		objects:  of[admissionregistration.MutatingAdmissionPolicyBinding, admissionregistration.MutatingAdmissionPolicyBindingList](),
		strategy: mutatingadmissionpolicybinding.NewStrategy(az, policyGetter{mutating}, find),
	})
	return err
}

// policyGetter finds the policy of a binding.
type policyGetter struct{ rest.Getter }

// GetValidatingAdmissionPolicy implements validatingadmissionpolicybinding.PolicyGetter.
func (g policyGetter) GetValidatingAdmissionPolicy(ctx context.Context, name string) (*admissionregistration.ValidatingAdmissionPolicy, error) {
	o, err := g.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return o.(*admissionregistration.ValidatingAdmissionPolicy), nil
}

// GetMutatingAdmissionPolicy implements mutatingadmissionpolicybinding.PolicyGetter.
func (g policyGetter) GetMutatingAdmissionPolicy(ctx context.Context, name string) (*admissionregistration.MutatingAdmissionPolicy, error) {
	o, err := g.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	return o.(*admissionregistration.MutatingAdmissionPolicy), nil
}

// addCertificates adds the requests of pods for certificates; who may answer one depends on the signer.
func (b *builder) addCertificates() error {
	rules := podcertificaterequest.NewStrategy()
	_, err := b.addKind(kind{
		group: certificates.GroupName, resource: "podcertificaterequests",
		objects:  of[certificates.PodCertificateRequest, certificates.PodCertificateRequestList](),
		strategy: rules, sub: status(podcertificaterequest.NewStatusStrategy(rules, b.deps.Authorizer, clock.RealClock{})),
		attrs: certificateRequestAttrs,
	})
	return err
}

// certificateRequestAttrs lets clients select requests by signer, pod and node.
func certificateRequestAttrs(o runtime.Object) (labels.Set, fields.Set, error) {
	r, ok := o.(*certificates.PodCertificateRequest)
	if !ok {
		return nil, nil, fmt.Errorf("expected a PodCertificateRequest, got %T", o)
	}
	return labels.Set(r.Labels), generic.MergeFieldsSets(generic.ObjectMetaFieldsSet(&r.ObjectMeta, true), fields.Set{
		"spec.signerName": r.Spec.SignerName, "spec.podName": r.Spec.PodName, "spec.nodeName": string(r.Spec.NodeName),
	}), nil
}

// addClaims adds the kinds of dynamic resource allocation whose rules ask for the labels of the namespace.
func (b *builder) addClaims() error {
	namespaces := b.deps.Client.CoreV1().Namespaces()
	rules := resourceclaim.NewStrategy(namespaces, b.deps.Authorizer)
	_, err := b.addKind(kind{
		group: apiresource.GroupName, resource: "resourceclaims", returnDeleted: true,
		objects:  of[apiresource.ResourceClaim, apiresource.ResourceClaimList](),
		strategy: rules, sub: status(resourceclaim.NewStatusStrategy(rules)),
		attrs: resourceclaim.GetAttrs, match: resourceclaim.Match,
	})
	if err != nil {
		return err
	}
	_, err = b.addKind(kind{
		group: apiresource.GroupName, resource: "resourceclaimtemplates", returnDeleted: true,
		objects:  of[apiresource.ResourceClaimTemplate, apiresource.ResourceClaimTemplateList](),
		strategy: resourceclaimtemplate.NewStrategy(namespaces), attrs: resourceclaimtemplate.GetAttrs,
	})
	return err
}
