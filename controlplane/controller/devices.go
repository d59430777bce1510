package controller

import (
	"context"
	"log/slog"

	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/devicetainteviction"
	"k8s.io/kubernetes/pkg/controller/resourceclaim"
)

// resourceClaims makes claims from templates, and frees those whose pods are over.
func resourceClaims(ctx context.Context, e *env) (func(context.Context), error) {
	r := e.Informers.Resource().V1()
	c, err := resourceclaim.NewController(klog.FromContext(ctx), e.client, e.Informers.Core().V1().Pods(),
		e.Informers.Scheduling().V1beta1().PodGroups(), r.ResourceClaims(), r.ResourceClaimTemplates())
	if err != nil {
		return nil, err
	}
	return with(2*workers, c.Run), nil
}

// deviceTaints ends pods whose devices were tainted with NoExecute.
func deviceTaints(_ context.Context, e *env) (func(context.Context), error) {
	r := e.Informers.Resource().V1()
	c := devicetainteviction.New(e.client, e.Informers.Core().V1().Pods(), r.ResourceClaims(), r.ResourceSlices(), r.DeviceTaintRules(), r.DeviceClasses(),
		"device-taint-eviction-controller")
	return func(ctx context.Context) {
		if err := c.Run(ctx, 2*workers); err != nil && ctx.Err() == nil {
			slog.Error("pods are not evicted from tainted devices", "err", err)
		}
		<-ctx.Done()
	}, nil
}
