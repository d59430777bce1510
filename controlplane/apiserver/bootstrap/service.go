package bootstrap

import (
	"context"
	"fmt"
	"math/big"
	"net"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	serviceName = "kubernetes"
	portName    = "https"
	servicePort = 443
)

// service creates the Service by which pods reach this server: the first address of the range of services.
func (b *Bootstrap) service(ctx context.Context) error {
	api := b.cfg.Client.CoreV1().Services(metav1.NamespaceDefault)
	// Looked for first: creating it a second time would be refused for its address, not for its name.
	if _, err := api.Get(ctx, serviceName, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		return err
	}
	port, err := b.port()
	if err != nil {
		return err
	}
	single := corev1.IPFamilyPolicySingleStack
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: serviceName, Labels: map[string]string{"provider": "kubernetes", "component": "apiserver"}},
		Spec: corev1.ServiceSpec{
			Type:            corev1.ServiceTypeClusterIP,
			ClusterIP:       FirstAddress(b.cfg.Services[0]).String(),
			IPFamilyPolicy:  &single,
			SessionAffinity: corev1.ServiceAffinityNone,
			Ports:           []corev1.ServicePort{{Name: portName, Protocol: corev1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(port)}},
		},
	}
	if _, err := api.Create(ctx, s, metav1.CreateOptions{}); present(err) != nil {
		return fmt.Errorf("create service %s: %w", serviceName, err)
	}
	return nil
}

// FirstAddress is the first address of a range after its network address.
func FirstAddress(r net.IPNet) net.IP {
	n := new(big.Int).SetBytes(r.IP)
	b := n.Add(n, big.NewInt(1)).FillBytes(make([]byte, len(r.IP)))
	return net.IP(b)
}

func (b *Bootstrap) port() (int32, error) {
	_, text, err := net.SplitHostPort(b.cfg.Addr.String())
	if err != nil {
		return 0, fmt.Errorf("own port: %w", err)
	}
	n, err := strconv.ParseInt(text, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("own port: %w", err)
	}
	return int32(n), nil
}

// endpoints makes Endpoints and EndpointSlice of the Service say where this server is. A loopback address, as in tests,
// is no endpoint: the API refuses it, since every pod has a loopback of its own.
func (b *Bootstrap) endpoints(ctx context.Context) error {
	if b.cfg.Advertise.IsLoopback() {
		return nil
	}
	port, err := b.port()
	if err != nil {
		return err
	}
	if err := b.endpointsObject(ctx, port); err != nil {
		return err
	}
	return b.endpointSlice(ctx, port)
}

func (b *Bootstrap) endpointsObject(ctx context.Context, port int32) error {
	want := &corev1.Endpoints{ //nolint:staticcheck // old clients still read Endpoints
		ObjectMeta: metav1.ObjectMeta{
			Name: serviceName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
		},
		Subsets: []corev1.EndpointSubset{{ //nolint:staticcheck // old clients still read Endpoints
			Addresses: []corev1.EndpointAddress{{IP: b.cfg.Advertise.String()}},
			Ports:     []corev1.EndpointPort{{Name: portName, Port: port, Protocol: corev1.ProtocolTCP}},
		}},
	}
	api := b.cfg.Client.CoreV1().Endpoints(metav1.NamespaceDefault)
	have, err := api.Get(ctx, serviceName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && !equality.Semantic.DeepEqual(have.Subsets, want.Subsets):
		want.ResourceVersion = have.ResourceVersion
		_, err = api.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write endpoints of %s: %w", serviceName, err)
	}
	return nil
}

func (b *Bootstrap) endpointSlice(ctx context.Context, port int32) error {
	name, tcp, ready := portName, corev1.ProtocolTCP, true
	want := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: serviceName, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: serviceName},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{b.cfg.Advertise.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &ready}}},
		Ports:       []discoveryv1.EndpointPort{{Name: &name, Port: &port, Protocol: &tcp}},
	}
	if b.cfg.Advertise.To4() == nil {
		want.AddressType = discoveryv1.AddressTypeIPv6
	}
	api := b.cfg.Client.DiscoveryV1().EndpointSlices(metav1.NamespaceDefault)
	have, err := api.Get(ctx, serviceName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = api.Create(ctx, want, metav1.CreateOptions{})
	case err == nil && (!equality.Semantic.DeepEqual(have.Endpoints, want.Endpoints) || !equality.Semantic.DeepEqual(have.Ports, want.Ports)):
		want.ResourceVersion = have.ResourceVersion
		_, err = api.Update(ctx, want, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write endpoint slice of %s: %w", serviceName, err)
	}
	return nil
}
