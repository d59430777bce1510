package rules

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/kubernetes/pkg/apis/apps"
	"k8s.io/kubernetes/pkg/apis/autoscaling"
	"k8s.io/kubernetes/pkg/apis/batch"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/kubernetes/pkg/registry/apps/controllerrevision"
	"k8s.io/kubernetes/pkg/registry/apps/daemonset"
	"k8s.io/kubernetes/pkg/registry/apps/deployment"
	"k8s.io/kubernetes/pkg/registry/apps/replicaset"
	"k8s.io/kubernetes/pkg/registry/apps/statefulset"
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"
	"k8s.io/kubernetes/pkg/registry/batch/cronjob"
	"k8s.io/kubernetes/pkg/registry/batch/job"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
)

// workloadKinds are the rows of apps, batch, autoscaling and policy.
func workloadKinds() []kind {
	appsV1 := schema.GroupVersion{Group: "apps", Version: "v1"}
	return []kind{
		{
			group: "apps", resource: "deployments", short: []string{"deploy"}, category: all(),
			objects:  of[apps.Deployment, apps.DeploymentList](),
			strategy: deployment.Strategy, sub: status(deployment.StatusStrategy),
			scale: &scaler{gv: appsV1, view: viewWorkload, set: func(o runtime.Object, n int32) { o.(*apps.Deployment).Spec.Replicas = n }},
		},
		{
			group: "apps", resource: "replicasets", short: []string{"rs"}, category: all(),
			objects:  of[apps.ReplicaSet, apps.ReplicaSetList](),
			strategy: replicaset.Strategy, sub: status(replicaset.StatusStrategy),
			attrs: replicaset.GetAttrs, match: replicaset.MatchReplicaSet,
			scale: &scaler{gv: appsV1, view: viewWorkload, set: func(o runtime.Object, n int32) { o.(*apps.ReplicaSet).Spec.Replicas = n }},
		},
		{
			group: "apps", resource: "statefulsets", short: []string{"sts"}, category: all(),
			objects:  of[apps.StatefulSet, apps.StatefulSetList](),
			strategy: statefulset.Strategy, sub: status(statefulset.StatusStrategy),
			scale: &scaler{gv: appsV1, view: viewWorkload, set: func(o runtime.Object, n int32) { o.(*apps.StatefulSet).Spec.Replicas = n }},
		},
		{
			group: "apps", resource: "daemonsets", short: []string{"ds"}, category: all(),
			objects:  of[apps.DaemonSet, apps.DaemonSetList](),
			strategy: daemonset.Strategy, sub: status(daemonset.StatusStrategy),
		},
		{
			group: "apps", resource: "controllerrevisions", objects: of[apps.ControllerRevision, apps.ControllerRevisionList](),
			strategy: controllerrevision.Strategy,
		},
		{
			group: "batch", resource: "jobs", category: all(), objects: of[batch.Job, batch.JobList](),
			strategy: job.Strategy, sub: status(job.StatusStrategy), attrs: job.GetAttrs, match: job.MatchJob,
		},
		{
			group: "batch", resource: "cronjobs", short: []string{"cj"}, category: all(),
			objects:  of[batch.CronJob, batch.CronJobList](),
			strategy: cronjob.Strategy, sub: status(cronjob.StatusStrategy),
		},
		{
			group: "autoscaling", versions: []string{"v2", "v1"}, resource: "horizontalpodautoscalers", short: []string{"hpa"}, category: all(),
			objects:  of[autoscaling.HorizontalPodAutoscaler, autoscaling.HorizontalPodAutoscalerList](),
			strategy: horizontalpodautoscaler.Strategy, sub: status(horizontalpodautoscaler.StatusStrategy),
		},
		{
			group: "policy", resource: "poddisruptionbudgets", short: []string{"pdb"},
			objects:  of[policy.PodDisruptionBudget, policy.PodDisruptionBudgetList](),
			strategy: poddisruptionbudget.Strategy, sub: status(poddisruptionbudget.StatusStrategy),
		},
	}
}

func viewWorkload(o runtime.Object) (want, have int32, selector string, err error) {
	var s *metav1.LabelSelector
	switch o := o.(type) {
	case *apps.Deployment:
		want, have, s = o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *apps.StatefulSet:
		want, have, s = o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	case *apps.ReplicaSet:
		want, have, s = o.Spec.Replicas, o.Status.Replicas, o.Spec.Selector
	default:
		return 0, 0, "", fmt.Errorf("%T has no scale", o)
	}
	parsed, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return 0, 0, "", err
	}
	return want, have, parsed.String(), nil
}
