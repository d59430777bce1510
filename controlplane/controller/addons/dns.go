// Package addons keeps the objects that skiff adds to every cluster: the Service of the cluster's DNS, and the roles of
// skiff's own parts.
package addons

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

const (
	dnsName  = "kube-dns"
	dnsSlice = "kube-dns-nodes"
	manager  = "addons.skiff.dev"
	// ProxyName is the service proxy that the DNS Service names: DNS answers on each node by itself, so any other
	// proxy must leave the Service alone (label service.kubernetes.io/service-proxy-name).
	ProxyName = "skiff-dns"
	retry     = time.Second
)

// DNSConfig says what the DNS Service is like.
type DNSConfig struct {
	Client   kubernetes.Interface
	Nodes    coreinformers.NodeInformer
	Services coreinformers.ServiceInformer
	Slices   discoveryinformers.EndpointSliceInformer
	Address  netip.Addr // cluster IP
}

// DNS keeps the Service kube-system/kube-dns, with a fixed cluster IP, and an EndpointSlice with each Ready node, as
// every node answers. Tools find the cluster's DNS by them; packets do not need them.
type DNS struct {
	cfg    DNSConfig
	synced []cache.DoneChecker
	wake   chan struct{}
}

// NewDNS hangs handlers on the informers.
func NewDNS(cfg DNSConfig) (*DNS, error) {
	if !cfg.Address.IsValid() {
		return nil, errors.New("DNS addon: Address is missing")
	}
	d := &DNS{cfg: cfg, wake: make(chan struct{}, 1)}
	poke := func() {
		select {
		case d.wake <- struct{}{}:
		default:
		}
	}
	for _, h := range []struct {
		informer cache.SharedIndexInformer
		ours     func(obj any) bool
	}{
		{cfg.Nodes.Informer(), func(any) bool { return true }},
		{cfg.Services.Informer(), named(dnsName)},
		{cfg.Slices.Informer(), named(dnsSlice)},
	} {
		r, err := h.informer.AddEventHandler(cache.FilteringResourceEventHandler{FilterFunc: h.ours, Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { poke() },
			UpdateFunc: func(any, any) { poke() },
			DeleteFunc: func(any) { poke() },
		}})
		if err != nil {
			return nil, fmt.Errorf("DNS addon: %w", err)
		}
		d.synced = append(d.synced, r.HasSyncedChecker())
	}
	return d, nil
}

func named(name string) func(any) bool {
	return func(obj any) bool {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		o, ok := obj.(metav1.Object)
		return ok && o.GetNamespace() == metav1.NamespaceSystem && o.GetName() == name
	}
}

// Run converges at each change until ctx ends.
func (d *DNS) Run(ctx context.Context) {
	if !cache.WaitFor(ctx, "", d.synced...) {
		return
	}
	for {
		var again <-chan time.Time
		if err := d.pass(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("DNS addon", "err", err)
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-again:
		}
	}
}

func (d *DNS) pass(ctx context.Context) error {
	nodes, err := d.cfg.Nodes.Lister().List(labels.Everything())
	if err != nil {
		return err
	}
	svc, err := d.service(ctx)
	if err != nil {
		return fmt.Errorf("service %s: %w", dnsName, err)
	}
	if err := d.slice(ctx, wantedSlice(svc, d.cfg.Address, nodes)); err != nil {
		return fmt.Errorf("endpoint slice %s: %w", dnsSlice, err)
	}
	return nil
}

func (d *DNS) service(ctx context.Context) (*v1.Service, error) {
	api := d.cfg.Client.CoreV1().Services(metav1.NamespaceSystem)
	want := wantedService(d.cfg.Address)
	have, err := d.cfg.Services.Lister().Services(metav1.NamespaceSystem).Get(dnsName)
	if apierrors.IsNotFound(err) {
		made, err := api.Create(ctx, want, metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) {
			return made, err
		}
		have, err = api.Get(ctx, dnsName, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
	} else if err != nil {
		return nil, err
	}
	if have.Spec.ClusterIP != want.Spec.ClusterIP {
		return nil, fmt.Errorf("it has the cluster IP %s, but %s is configured as the DNS address: delete the service or change the configuration",
			have.Spec.ClusterIP, want.Spec.ClusterIP)
	}
	next := have.DeepCopy()
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	for k, v := range want.Labels {
		next.Labels[k] = v
	}
	next.Spec.Selector, next.Spec.Ports = want.Spec.Selector, want.Spec.Ports
	if equality.Semantic.DeepEqual(have.Labels, next.Labels) && equality.Semantic.DeepEqual(have.Spec, next.Spec) {
		return have, nil
	}
	return api.Update(ctx, next, metav1.UpdateOptions{})
}

func (d *DNS) slice(ctx context.Context, want *discoveryv1.EndpointSlice) error {
	api := d.cfg.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceSystem)
	have, err := d.cfg.Slices.Lister().EndpointSlices(metav1.NamespaceSystem).Get(dnsSlice)
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // the informer will show it
		}
		return err
	case err != nil:
		return err
	case have.AddressType != want.AddressType:
		return api.Delete(ctx, dnsSlice, metav1.DeleteOptions{})
	}
	next := have.DeepCopy()
	next.Labels, next.OwnerReferences = want.Labels, want.OwnerReferences
	next.Endpoints, next.Ports = want.Endpoints, want.Ports
	if equality.Semantic.DeepEqual(have, next) {
		return nil
	}
	_, err = api.Update(ctx, next, metav1.UpdateOptions{})
	return err
}

// wantedService is the Service as it should be.
func wantedService(ip netip.Addr) *v1.Service {
	port := func(name string, protocol v1.Protocol, number int32) v1.ServicePort {
		return v1.ServicePort{Name: name, Protocol: protocol, Port: number, TargetPort: intstr.FromInt32(number)}
	}
	return &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: dnsName, Labels: map[string]string{
			"k8s-app":                                  "kube-dns",
			"kubernetes.io/cluster-service":            "true",
			"kubernetes.io/name":                       "CoreDNS",
			"service.kubernetes.io/service-proxy-name": ProxyName,
		}},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeClusterIP, ClusterIP: ip.String(), ClusterIPs: []string{ip.String()},
			Ports: []v1.ServicePort{port("dns", v1.ProtocolUDP, 53), port("dns-tcp", v1.ProtocolTCP, 53), port("metrics", v1.ProtocolTCP, 9153)},
		},
	}
}

// wantedSlice is the EndpointSlice as it should be: the nodes that are Ready, by name.
func wantedSlice(svc *v1.Service, ip netip.Addr, nodes []*v1.Node) *discoveryv1.EndpointSlice {
	family := discoveryv1.AddressTypeIPv4
	if ip.Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: dnsSlice,
			Labels:          map[string]string{discoveryv1.LabelServiceName: dnsName, discoveryv1.LabelManagedBy: manager},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Service", Name: svc.Name, UID: svc.UID}},
		},
		AddressType: family,
		Endpoints:   []discoveryv1.Endpoint{},
	}
	for _, p := range svc.Spec.Ports {
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: new(p.Name), Protocol: new(p.Protocol), Port: new(p.Port)})
	}
	for _, n := range nodes {
		if address := internalIP(n, ip.Is6()); address != "" && ready(n) {
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{
				Addresses: []string{address}, NodeName: new(n.Name),
				Conditions: discoveryv1.EndpointConditions{Ready: new(true), Serving: new(true), Terminating: new(false)},
			})
		}
	}
	slices.SortFunc(s.Endpoints, func(a, b discoveryv1.Endpoint) int { return strings.Compare(*a.NodeName, *b.NodeName) })
	return s
}

func internalIP(n *v1.Node, six bool) string {
	for _, a := range n.Status.Addresses {
		if a.Type != v1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(a.Address); err == nil && ip.Is6() == six {
			return a.Address
		}
	}
	return ""
}

func ready(n *v1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}
