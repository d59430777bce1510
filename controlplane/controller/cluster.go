package controller

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/kubernetes/pkg/controller"
	"k8s.io/kubernetes/pkg/controller/garbagecollector"
	namespacecontroller "k8s.io/kubernetes/pkg/controller/namespace"
	"k8s.io/kubernetes/pkg/controller/podgc"
	quotacontroller "k8s.io/kubernetes/pkg/controller/resourcequota"
	quotainstall "k8s.io/kubernetes/pkg/quota/v1/install"
)

// rediscover is how often controllers that work on all kinds ask whether there are new ones.
const rediscover = 30 * time.Second

// both runs two loops of one controller.
func both(a, b func(context.Context)) func(context.Context) {
	return func(ctx context.Context) {
		var all sync.WaitGroup
		all.Go(func() { a(ctx) })
		all.Go(func() { b(ctx) })
		all.Wait()
	}
}

func namespace(ctx context.Context, e *env) (func(context.Context), error) {
	c := namespacecontroller.NewNamespaceController(ctx, e.client, e.metadata,
		e.client.Discovery().ServerPreferredNamespacedResources, e.Informers.Core().V1().Namespaces(), 5*time.Minute, v1.FinalizerKubernetes)
	return with(10, c.Run), nil
}

func garbageCollector(ctx context.Context, e *env) (func(context.Context), error) {
	ignored := map[schema.GroupResource]struct{}{}
	for r := range garbagecollector.DefaultIgnoredResources() {
		ignored[r] = struct{}{}
	}
	c, err := garbagecollector.NewGarbageCollector(ctx, e.client, e.metadata, e.mapper, ignored, e.objects, e.started)
	if err != nil {
		return nil, err
	}
	discovery := e.client.Discovery()
	return both(
		func(ctx context.Context) { c.Run(ctx, 20, rediscover) },
		func(ctx context.Context) { c.Sync(ctx, discovery, rediscover) },
	), nil
}

// podGC deletes finished pods above upstream's limit, and pods of nodes that are gone.
func podGC(ctx context.Context, e *env) (func(context.Context), error) {
	const finished = 12500
	return podgc.NewPodGC(ctx, e.client, e.Informers.Core().V1().Pods(), e.Informers.Core().V1().Nodes(), finished).Run, nil
}

func quota(ctx context.Context, e *env) (func(context.Context), error) {
	kinds := e.client.Discovery().ServerPreferredNamespacedResources
	rules, err := quotainstall.NewQuotaConfigurationForControllers(generic.ListerFuncForResourceFunc(e.Informers.ForResource), e.Informers)
	if err != nil {
		return nil, err
	}
	c, err := quotacontroller.NewController(ctx, &quotacontroller.ControllerOptions{
		QuotaClient:               e.client.CoreV1(),
		ResourceQuotaInformer:     e.Informers.Core().V1().ResourceQuotas(),
		ResyncPeriod:              controller.StaticResyncPeriodFunc(5 * time.Minute),
		InformerFactory:           e.objects,
		ReplenishmentResyncPeriod: controller.StaticResyncPeriodFunc(12 * time.Hour),
		DiscoveryFunc:             kinds,
		IgnoredResourcesFunc:      rules.IgnoredResources,
		InformersStarted:          e.started,
		Registry:                  generic.NewRegistry(rules.Evaluators()),
		UpdateFilter:              quotainstall.DefaultUpdateFilter(),
	})
	if err != nil {
		return nil, err
	}
	return both(
		func(ctx context.Context) { c.Run(ctx, workers) },
		func(ctx context.Context) { c.Sync(ctx, kinds, rediscover) },
	), nil
}
