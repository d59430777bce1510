package rules

import (
	"fmt"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	pvcutil "k8s.io/kubernetes/pkg/api/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/registry/core/configmap"
	"k8s.io/kubernetes/pkg/registry/core/endpoint"
	"k8s.io/kubernetes/pkg/registry/core/event"
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolume"
	"k8s.io/kubernetes/pkg/registry/core/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/registry/core/podtemplate"
	"k8s.io/kubernetes/pkg/registry/core/replicationcontroller"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/core/secret"
)

// eventTTL is how long an event lives, in seconds: upstream's default of one hour.
const eventTTL = 3600

// all is the category behind "kubectl get all".
func all() []string { return []string{"all"} }

// status is the rule of a kind whose only plain subresource is its status.
func status(s rest.RESTUpdateStrategy) map[string]rest.RESTUpdateStrategy {
	return map[string]rest.RESTUpdateStrategy{"status": s}
}

// coreKinds are the rows of core/v1 that need nothing special; see special.go for the others.
func coreKinds() []kind {
	return []kind{
		{
			resource: "configmaps", objects: of[core.ConfigMap, core.ConfigMapList](), short: []string{"cm"},
			strategy: configmap.Strategy, attrs: configmap.GetAttrs, match: configmap.Matcher,
		},
		{
			resource: "secrets", objects: of[core.Secret, core.SecretList](),
			strategy: secret.Strategy, attrs: secret.GetAttrs, match: secret.Matcher,
		},
		{
			resource: "endpoints", singular: "endpoints", objects: of[core.Endpoints, core.EndpointsList](), short: []string{"ep"},
			strategy: endpoint.Strategy,
		},
		eventKind(""),
		eventKind("events.k8s.io"),
		{
			resource: "limitranges", objects: of[core.LimitRange, core.LimitRangeList](), short: []string{"limits"},
			strategy: limitrange.Strategy,
		},
		{
			resource: "resourcequotas", objects: of[core.ResourceQuota, core.ResourceQuotaList](), short: []string{"quota"},
			strategy: resourcequota.Strategy, sub: status(resourcequota.StatusStrategy), returnDeleted: true,
		},
		{
			resource: "persistentvolumes", objects: of[core.PersistentVolume, core.PersistentVolumeList](), short: []string{"pv"},
			strategy: persistentvolume.Strategy, sub: status(persistentvolume.StatusStrategy), returnDeleted: true,
			attrs: persistentvolume.GetAttrs, match: persistentvolume.MatchPersistentVolumes,
		},
		{
			resource: "persistentvolumeclaims", short: []string{"pvc"}, returnDeleted: true,
			objects:  of[core.PersistentVolumeClaim, core.PersistentVolumeClaimList](),
			strategy: persistentvolumeclaim.Strategy, sub: status(persistentvolumeclaim.StatusStrategy),
			attrs: persistentvolumeclaim.GetAttrs, match: persistentvolumeclaim.MatchPersistentVolumeClaim,
			decorate: completeClaims,
		},
		{
			resource: "podtemplates", objects: of[core.PodTemplate, core.PodTemplateList](),
			strategy: podtemplate.Strategy, returnDeleted: true,
		},
		{
			resource: "replicationcontrollers", short: []string{"rc"}, category: all(),
			objects:  of[core.ReplicationController, core.ReplicationControllerList](),
			strategy: replicationcontroller.Strategy, sub: status(replicationcontroller.StatusStrategy),
			attrs: replicationcontroller.GetAttrs, match: replicationcontroller.MatchController,
			scale: &scaler{gv: schema.GroupVersion{Version: "v1"}, view: viewController, set: func(o runtime.Object, n int32) {
				o.(*core.ReplicationController).Spec.Replicas = &n
			}},
		},
	}
}

// eventKind is served in two groups over the same keys.
func eventKind(group string) kind {
	return kind{
		group: group, resource: "events", objects: of[core.Event, core.EventList](), short: []string{"ev"}, ttl: eventTTL,
		strategy: event.Strategy, attrs: event.GetAttrs, match: event.Matcher,
	}
}

func viewController(o runtime.Object) (want, have int32, selector string, err error) {
	rc, ok := o.(*core.ReplicationController)
	if !ok {
		return 0, 0, "", fmt.Errorf("expected a ReplicationController, got %T", o)
	}
	if rc.Spec.Replicas != nil {
		want = *rc.Spec.Replicas
	}
	return want, rc.Status.Replicas, labels.Set(rc.Spec.Selector).AsSelector().String(), nil
}

// completeClaims gives claims of old clients the newer of two fields that say the same.
func completeClaims(o runtime.Object) {
	switch o := o.(type) {
	case *core.PersistentVolumeClaim:
		pvcutil.NormalizeDataSources(&o.Spec)
	case *core.PersistentVolumeClaimList:
		for i := range o.Items {
			pvcutil.NormalizeDataSources(&o.Items[i].Spec)
		}
	}
}
