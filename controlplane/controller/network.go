package controller

import (
	"context"
	"net"
	"net/netip"
	"time"

	endpointcontroller "k8s.io/kubernetes/pkg/controller/endpoint"
	slicecontroller "k8s.io/kubernetes/pkg/controller/endpointslice"
	mirrorcontroller "k8s.io/kubernetes/pkg/controller/endpointslicemirroring"
	"k8s.io/kubernetes/pkg/controller/nodeipam"
	"k8s.io/kubernetes/pkg/controller/nodeipam/ipam"
	"k8s.io/kubernetes/pkg/controller/nodelifecycle"
	"k8s.io/kubernetes/pkg/controller/tainteviction"

	"github.com/skiff-node/skiff/controlplane/controller/addons"
)

// Upstream's limits of an EndpointSlice. Slices follow each change at once, since proxies and DNS live by them; the old
// Endpoints, which nothing in the path of a packet reads, gather the changes of half a second.
const (
	endpointsPerSlice  = 100
	endpointsPerMirror = 1000
	sliceBatch         = 0
	endpointsBatch     = 500 * time.Millisecond
)

func endpointSlices(ctx context.Context, e *env) (func(context.Context), error) {
	c := slicecontroller.NewController(ctx,
		e.Informers.Core().V1().Pods(), e.Informers.Core().V1().Services(), e.Informers.Core().V1().Nodes(),
		e.Informers.Discovery().V1().EndpointSlices(), endpointsPerSlice, e.client, sliceBatch)
	return with(workers, c.Run), nil
}

func endpointsOf(ctx context.Context, e *env) (func(context.Context), error) {
	c := endpointcontroller.NewEndpointController(ctx,
		e.Informers.Core().V1().Pods(), e.Informers.Core().V1().Services(), e.Informers.Core().V1().Endpoints(), e.client, endpointsBatch)
	return with(workers, c.Run), nil
}

func mirroredSlices(ctx context.Context, e *env) (func(context.Context), error) {
	c := mirrorcontroller.NewController(ctx,
		e.Informers.Core().V1().Endpoints(), e.Informers.Discovery().V1().EndpointSlices(), e.Informers.Core().V1().Services(),
		endpointsPerMirror, e.client, sliceBatch)
	return with(workers, c.Run), nil
}

// nodeAddresses gives each node its part of the pod range.
func nodeAddresses(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := nodeipam.NewNodeIpamController(ctx, e.Informers.Core().V1().Nodes(), nil, e.client,
		[]*net.IPNet{ipNet(e.PodCIDR)}, ipNet(e.ServiceCIDR), nil, []int{e.NodePrefix}, ipam.RangeAllocatorType)
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	p = p.Masked()
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// nodeLifecycle marks nodes whose kubelet is silent. All figures are upstream's.
func nodeLifecycle(ctx context.Context, e *env) (func(context.Context), error) {
	const (
		look          = 5 * time.Second
		startupGrace  = 60 * time.Second
		silence       = 50 * time.Second
		perSecond     = 0.1  // nodes tainted for eviction
		perSecondSick = 0.01 // the same while more than the following share of a zone is silent
		sick          = 0.55
		largeZone     = 50
	)
	c, err := nodelifecycle.NewNodeLifecycleController(ctx,
		e.Informers.Coordination().V1().Leases(), e.Informers.Core().V1().Pods(), e.Informers.Core().V1().Nodes(),
		e.Informers.Apps().V1().DaemonSets(), e.client, look, startupGrace, silence, perSecond, perSecondSick, largeZone, sick)
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}

func taintEviction(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := tainteviction.New(ctx, e.client, e.Informers.Core().V1().Pods(), e.Informers.Core().V1().Nodes(), "taint-eviction-controller")
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}

func dns(_ context.Context, e *env) (func(context.Context), error) {
	c, err := addons.NewDNS(addons.DNSConfig{
		Client: e.client, Nodes: e.Informers.Core().V1().Nodes(), Services: e.Informers.Core().V1().Services(),
		Slices: e.Informers.Discovery().V1().EndpointSlices(), Address: e.DNSAddress,
	})
	if err != nil {
		return nil, err
	}
	return c.Run, nil
}
