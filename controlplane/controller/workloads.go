package controller

import (
	"context"
	"time"

	"k8s.io/client-go/util/flowcontrol"
	cronjobcontroller "k8s.io/kubernetes/pkg/controller/cronjob"
	daemoncontroller "k8s.io/kubernetes/pkg/controller/daemon"
	deploymentcontroller "k8s.io/kubernetes/pkg/controller/deployment"
	disruptioncontroller "k8s.io/kubernetes/pkg/controller/disruption"
	jobcontroller "k8s.io/kubernetes/pkg/controller/job"
	replicasetcontroller "k8s.io/kubernetes/pkg/controller/replicaset"
	replicationcontroller "k8s.io/kubernetes/pkg/controller/replication"
	statefulsetcontroller "k8s.io/kubernetes/pkg/controller/statefulset"
	ttlcontroller "k8s.io/kubernetes/pkg/controller/ttlafterfinished"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/scale"
)

// workers is how many objects of a kind a controller works on at a time, upstream's figure for most.
const workers = 5

// with fixes the number of workers of a controller.
func with(n int, run func(context.Context, int)) func(context.Context) {
	return func(ctx context.Context) { run(ctx, n) }
}

func deployment(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := deploymentcontroller.NewDeploymentController(ctx,
		e.Informers.Apps().V1().Deployments(), e.Informers.Apps().V1().ReplicaSets(), e.Informers.Core().V1().Pods(), e.client)
	if err != nil {
		return nil, err
	}
	return with(workers, c.Run), nil
}

func replicaSet(ctx context.Context, e *env) (func(context.Context), error) {
	c := replicasetcontroller.NewReplicaSetController(ctx,
		e.Informers.Apps().V1().ReplicaSets(), e.Informers.Core().V1().Pods(), e.client, replicasetcontroller.BurstReplicas)
	return with(workers, c.Run), nil
}

func replicationController(ctx context.Context, e *env) (func(context.Context), error) {
	c := replicationcontroller.NewReplicationManager(ctx,
		e.Informers.Core().V1().Pods(), e.Informers.Core().V1().ReplicationControllers(), e.client, replicationcontroller.BurstReplicas)
	return with(workers, c.Run), nil
}

func statefulSet(ctx context.Context, e *env) (func(context.Context), error) {
	c := statefulsetcontroller.NewStatefulSetController(ctx,
		e.Informers.Core().V1().Pods(), e.Informers.Apps().V1().StatefulSets(),
		e.Informers.Core().V1().PersistentVolumeClaims(), e.Informers.Apps().V1().ControllerRevisions(), e.client)
	return with(workers, c.Run), nil
}

func daemonSet(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := daemoncontroller.NewDaemonSetsController(ctx,
		e.Informers.Apps().V1().DaemonSets(), e.Informers.Apps().V1().ControllerRevisions(),
		e.Informers.Core().V1().Pods(), e.Informers.Core().V1().Nodes(), e.client,
		flowcontrol.NewBackOff(time.Second, 15*time.Minute))
	if err != nil {
		return nil, err
	}
	return with(2, c.Run), nil
}

func job(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := jobcontroller.NewController(ctx, e.client,
		e.Informers.Core().V1().Pods(), e.Informers.Batch().V1().Jobs(), nil, nil)
	if err != nil {
		return nil, err
	}
	return with(workers, c.Run), nil
}

func cronJob(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := cronjobcontroller.NewControllerV2(ctx, e.Informers.Batch().V1().Jobs(), e.Informers.Batch().V1().CronJobs(), e.client)
	if err != nil {
		return nil, err
	}
	return with(workers, c.Run), nil
}

func ttlAfterFinished(ctx context.Context, e *env) (func(context.Context), error) {
	return with(workers, ttlcontroller.New(ctx, e.Informers.Batch().V1().Jobs(), e.client).Run), nil
}

func disruptionBudgets(ctx context.Context, e *env) (func(context.Context), error) {
	discovery := e.client.Discovery()
	api := rest.CopyConfig(e.API)
	api.QPS = -1
	scales, err := scale.NewForConfig(api, e.mapper, dynamic.LegacyAPIPathResolverFunc, scale.NewDiscoveryScaleKindResolver(discovery))
	if err != nil {
		return nil, err
	}
	c := disruptioncontroller.NewDisruptionController(ctx,
		e.Informers.Core().V1().Pods(), e.Informers.Policy().V1().PodDisruptionBudgets(),
		e.Informers.Core().V1().ReplicationControllers(), e.Informers.Apps().V1().ReplicaSets(),
		e.Informers.Apps().V1().Deployments(), e.Informers.Apps().V1().StatefulSets(),
		e.client, e.mapper, scales, discovery)
	return with(1, c.Run), nil
}
