// Package admission assembles the chain of checks and completions between validation of a request and its storing:
// upstream's own plugins in upstream's order.
package admission

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/initializer"
	"k8s.io/apiserver/pkg/admission/plugin/namespace/lifecycle"
	mutatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	validatingpolicy "k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/resourcequota"
	webhookinit "k8s.io/apiserver/pkg/admission/plugin/webhook/initializer"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-base/compatibility"
	"k8s.io/component-base/featuregate"
	quotaevaluators "k8s.io/kubernetes/pkg/quota/v1/evaluator/core"
	certapproval "k8s.io/kubernetes/plugin/pkg/admission/certificates/approval"
	certsigning "k8s.io/kubernetes/plugin/pkg/admission/certificates/signing"
	certsubject "k8s.io/kubernetes/plugin/pkg/admission/certificates/subjectrestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/defaulttolerationseconds"
	"k8s.io/kubernetes/plugin/pkg/admission/limitranger"
	"k8s.io/kubernetes/plugin/pkg/admission/network/defaultingressclass"
	"k8s.io/kubernetes/plugin/pkg/admission/noderestriction"
	"k8s.io/kubernetes/plugin/pkg/admission/nodetaint"
	"k8s.io/kubernetes/plugin/pkg/admission/priority"
	"k8s.io/kubernetes/plugin/pkg/admission/runtimeclass"
	"k8s.io/kubernetes/plugin/pkg/admission/security/podsecurity"
	"k8s.io/kubernetes/plugin/pkg/admission/serviceaccount"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/persistentvolume/resize"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageclass/setdefault"
	"k8s.io/kubernetes/plugin/pkg/admission/storage/storageobjectinuseprotection"
)

// Config is what the plugins look things up with.
type Config struct {
	Client     kubernetes.Interface
	Dynamic    dynamic.Interface
	Informers  informers.SharedInformerFactory
	Authorizer authorizer.Authorizer
	Mapper     meta.RESTMapper
	Version    compatibility.EffectiveVersion
	Features   featuregate.FeatureGate
	// Done is closed when the server has drained.
	Done <-chan struct{}
	// Services finds the address of a webhook that is named by its Service.
	Services webhook.ServiceResolver
}

// plugin is one link of the chain.
type plugin struct {
	name     string
	register func(*admission.Plugins)
}

// chain is upstream's order. Mutating plugins run before validating ones whatever their place; webhooks see what the
// others made, and the quota counts last.
func chain() []plugin {
	return []plugin{
		{lifecycle.PluginName, lifecycle.Register},
		{limitranger.PluginName, limitranger.Register},
		{serviceaccount.PluginName, serviceaccount.Register},
		{noderestriction.PluginName, noderestriction.Register},
		{nodetaint.PluginName, nodetaint.Register},
		{podsecurity.PluginName, podsecurity.Register},
		{priority.PluginName, priority.Register},
		{defaulttolerationseconds.PluginName, defaulttolerationseconds.Register},
		{setdefault.PluginName, setdefault.Register},
		{storageobjectinuseprotection.PluginName, storageobjectinuseprotection.Register},
		{resize.PluginName, resize.Register},
		{runtimeclass.PluginName, runtimeclass.Register},
		{certapproval.PluginName, certapproval.Register},
		{certsigning.PluginName, certsigning.Register},
		{certsubject.PluginName, certsubject.Register},
		{defaultingressclass.PluginName, defaultingressclass.Register},
		{mutatingpolicy.PluginName, mutatingpolicy.Register},
		{mutatingwebhook.PluginName, mutatingwebhook.Register},
		{validatingpolicy.PluginName, validatingpolicy.Register},
		{validatingwebhook.PluginName, validatingwebhook.Register},
		{resourcequota.PluginName, resourcequota.Register},
	}
}

// New builds the chain. The plugins' informers start with the factory of Config.
func New(c Config) (admission.Interface, error) {
	plugins := admission.NewPlugins()
	var names []string
	for _, p := range chain() {
		p.register(plugins)
		names = append(names, p.name)
	}
	configs, err := admission.ReadAdmissionConfiguration(names, "", runtime.NewScheme())
	if err != nil {
		return nil, fmt.Errorf("admission configuration: %w", err)
	}
	evaluators, err := quotaevaluators.NewEvaluators(nil, c.Informers, nil)
	if err != nil {
		return nil, fmt.Errorf("evaluators of resource quota: %w", err)
	}
	resolver := webhook.NewDefaultAuthenticationInfoResolverWrapper(nil, nil, nil, nil)
	inits := admission.PluginInitializers{
		initializer.New(c.Client, c.Dynamic, c.Informers, c.Authorizer, c.Features, c.Version, c.Done, c.Mapper),
		webhookinit.NewPluginInitializer(resolver, c.Services),
		quotaInitializer{generic.NewConfiguration(evaluators, nil)},
	}
	out, err := plugins.NewFromPlugins(names, configs, inits, admission.Decorators{})
	if err != nil {
		return nil, fmt.Errorf("admission chain: %w", err)
	}
	return out, nil
}

// quotaInitializer tells the quota plugin how to count.
type quotaInitializer struct{ quota.Configuration }

// Initialize implements admission.PluginInitializer.
func (q quotaInitializer) Initialize(p admission.Interface) {
	if wants, ok := p.(initializer.WantsQuotaConfiguration); ok {
		wants.SetQuotaConfiguration(q.Configuration)
	}
}
