// Package certificate gets the node's certificates from the cluster and renews them before they end:
//
//	bootstrap token ─► Bootstrap ─► first client certificate, and a kubeconfig that points to it
//	client certificate ─► Client ─► renewed at 70 to 90 % of its life    (rotateCertificates)
//	client certificate ─► Serving ─► certificate of port 10250, renewed  (serverTLSBootstrap)
//
// Each is a CertificateSigningRequest that the cluster approves and signs. Certificates are kept in files as upstream names
// them (kubelet-client-current.pem …), so that either kubelet takes over from the other; API clients read the files
// again when they change.
package certificate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	certificates "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/certificate"

	"github.com/skiff-node/skiff/kubelet/metrics"
)

// Prefixes of the files.
const (
	clientPair  = "kubelet-client"
	servingPair = "kubelet-server"
)

// Client renews the client certificate that rc uses, and makes rc use the file in which the newest one is.
type Client struct{ manager certificate.Manager }

// NewClient takes over the certificate of rc into dir, unless dir has one already.
func NewClient(rc *rest.Config, dir, node string, m *metrics.Certificates) (*Client, error) {
	store, err := certificate.NewFileStore(clientPair, dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("open the store of client certificates: %w", err)
	}
	if _, err := store.Current(); err != nil {
		if err := take(store, rc); err != nil {
			return nil, fmt.Errorf("rotateCertificates: take over the client certificate: %w", err)
		}
	}
	rc.TLSClientConfig.CertFile, rc.TLSClientConfig.KeyFile = store.CurrentPath(), store.CurrentPath()
	rc.TLSClientConfig.CertData, rc.TLSClientConfig.KeyData = nil, nil
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) { return kubernetes.NewForConfig(rc) },
		Template:    &x509.CertificateRequest{Subject: subject(node)},
		SignerName:  certificates.KubeAPIServerClientKubeletSignerName, GetUsages: certificate.DefaultKubeletClientGetUsages,
		CertificateStore: store, CertificateRenewFailure: m.ClientFailures,
	})
	if err != nil {
		return nil, fmt.Errorf("watch over the client certificate: %w", err)
	}
	m.Client(manager.Current)
	return &Client{manager}, nil
}

// take stores the certificate that rc uses.
func take(store certificate.FileStore, rc *rest.Config) error {
	if err := rest.LoadTLSFiles(rc); err != nil {
		return err
	}
	if len(rc.CertData) == 0 || len(rc.KeyData) == 0 {
		return errors.New("the kubeconfig has none: use one with a client certificate, or set rotateCertificates to false")
	}
	_, err := store.Update(rc.CertData, rc.KeyData)
	return err
}

// Run renews the certificate when its time has come, until ctx ends.
func (c *Client) Run(ctx context.Context) error { return run(ctx, c.manager) }

func run(ctx context.Context, m certificate.Manager) error {
	m.Start()
	<-ctx.Done()
	m.Stop()
	return nil
}

// subject of a node's certificates: the authorizers know nodes by it.
func subject(node string) pkix.Name {
	return pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}}
}

// Serving has the certificate of the kubelet's server.
type Serving struct{ manager certificate.Manager }

// NewServing keeps a serving certificate for the node's addresses in dir. When the addresses change, another one is
// requested.
func NewServing(client kubernetes.Interface, dir, node string, addresses func() []v1.NodeAddress, m *metrics.Certificates) (*Serving, error) {
	store, err := certificate.NewFileStore(servingPair, dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("open the store of serving certificates: %w", err)
	}
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) { return client, nil },
		GetTemplate: func() *x509.CertificateRequest { return template(node, addresses()) },
		SignerName:  certificates.KubeletServingSignerName, GetUsages: certificate.DefaultKubeletServingGetUsages,
		CertificateStore: store, CertificateRotation: m.ServingAges, CertificateRenewFailure: m.ServingFailures,
	})
	if err != nil {
		return nil, fmt.Errorf("watch over the serving certificate: %w", err)
	}
	m.Serving(manager.Current)
	return &Serving{manager}, nil
}

// template asks for the node's names and addresses; nil, for nothing, while it has none.
func template(node string, addresses []v1.NodeAddress) *x509.CertificateRequest {
	t := &x509.CertificateRequest{Subject: subject(node)}
	for _, a := range addresses {
		ip := net.ParseIP(a.Address)
		switch {
		case a.Type == v1.NodeHostName || a.Type == v1.NodeInternalDNS || a.Type == v1.NodeExternalDNS:
			if ip == nil && a.Address != "" && !slices.Contains(t.DNSNames, a.Address) {
				t.DNSNames = append(t.DNSNames, a.Address)
			}
		case ip != nil && !slices.ContainsFunc(t.IPAddresses, ip.Equal):
			t.IPAddresses = append(t.IPAddresses, ip)
		}
	}
	if len(t.DNSNames) == 0 && len(t.IPAddresses) == 0 {
		return nil
	}
	slices.Sort(t.DNSNames)
	return t
}

// Get is the certificate for a connection. There is none until the cluster has signed the first.
func (s *Serving) Get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := s.manager.Current(); c != nil {
		return c, nil
	}
	return nil, errors.New("no serving certificate available for the kubelet")
}

// Run gets and renews the certificate until ctx ends.
func (s *Serving) Run(ctx context.Context) error { return run(ctx, s.manager) }

// alive tells whether a certificate can be used now.
func alive(c *tls.Certificate, now time.Time) bool {
	return c != nil && c.Leaf != nil && now.Before(c.Leaf.NotAfter) && !now.Before(c.Leaf.NotBefore)
}
