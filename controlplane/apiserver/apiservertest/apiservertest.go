// Package apiservertest starts a real API server over a real embedded etcd, on loopback and in a temporary directory, for
// tests of what talks to one.
package apiservertest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/skiff-node/skiff/controlplane/apiserver"
	"github.com/skiff-node/skiff/controlplane/etcd"
)

// readyDeadline is generous: the tests share their machine.
const readyDeadline = time.Minute

// Env is a running API server.
type Env struct {
	Server *apiserver.Server
	// Dir holds the certificates (as files) and etcd's data.
	Dir  string
	CA   *Authority
	stop func()
}

// Start runs a server until the test ends. change may alter its configuration; it may be nil.
func Start(t testing.TB, change func(*apiserver.Config)) *Env {
	t.Helper()
	return StartIn(t, t.TempDir(), change)
}

// StartIn is Start over a directory that may hold the data of an earlier run.
func StartIn(t testing.TB, dir string, change func(*apiserver.Config)) *Env {
	t.Helper()
	e := &Env{Dir: dir, CA: NewAuthority(t, dir)}
	store, err := etcd.New(etcd.Config{Dir: filepath.Join(dir, "etcd")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- store.Run(ctx) }()
	cfg := apiserver.Config{
		BindAddress: "127.0.0.1", Port: -1, AdvertiseAddress: "127.0.0.1", Etcd: store.Client(),
		ServingCert: filepath.Join(dir, "apiserver.crt"), ServingKey: filepath.Join(dir, "apiserver.key"),
		ClientCA:        filepath.Join(dir, "ca.crt"),
		Kubelet:         apiserver.KubeletClient{Cert: filepath.Join(dir, "kubelet-client.crt"), Key: filepath.Join(dir, "kubelet-client.key")},
		ServiceAccounts: apiserver.ServiceAccounts{SigningKey: filepath.Join(dir, "sa.key")},
		ServiceCIDRs:    []string{"10.43.0.0/16"},
	}
	if change != nil {
		change(&cfg)
	}
	e.Server, err = apiserver.New(cfg)
	if err != nil {
		cancel()
		t.Fatal(err, <-stopped)
	}
	serving := make(chan error, 1)
	serveCtx, stopServing := context.WithCancel(ctx)
	go func() { serving <- e.Server.Run(serveCtx) }()
	e.stop = sync.OnceFunc(func() {
		stopServing()
		if err := <-serving; err != nil {
			t.Errorf("API server: %v", err)
		}
		cancel()
		if err := <-stopped; err != nil {
			t.Errorf("etcd: %v", err)
		}
	})
	t.Cleanup(e.Stop)
	select {
	case <-e.Server.Ready():
	case <-time.After(readyDeadline):
		t.Fatal("the API server is not ready")
	}
	return e
}

// Stop ends the server and waits; the end of the test does it otherwise.
func (e *Env) Stop() { e.stop() }

// Client is a configuration for a user with a client certificate, over TLS as from outside.
func (e *Env) Client(t testing.TB, user string, groups ...string) *rest.Config {
	t.Helper()
	cert, key := e.CA.Issue(t, pkix.Name{CommonName: user, Organization: groups})
	return &rest.Config{
		Host:            "https://" + e.Server.Addr().String(),
		TLSClientConfig: rest.TLSClientConfig{CAData: e.CA.PEM, CertData: cert, KeyData: key},
		QPS:             -1,
	}
}

// Admin is a configuration for a member of system:masters.
func (e *Env) Admin(t testing.TB) *rest.Config {
	t.Helper()
	return e.Client(t, "admin", "system:masters")
}

// Authority is a throw-away certificate authority.
type Authority struct {
	PEM  []byte
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority and writes into dir what a server needs: ca.crt, apiserver.crt and .key,
// kubelet-client.crt and .key, sa.key.
func NewAuthority(t testing.TB, dir string) *Authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test-ca"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a := &Authority{PEM: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), cert: cert, key: key}
	server, serverKey := a.Issue(t, pkix.Name{CommonName: "kube-apiserver"})
	kubelet, kubeletKey := a.Issue(t, pkix.Name{CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:masters"}})
	for name, data := range map[string][]byte{
		"ca.crt": a.PEM, "apiserver.crt": server, "apiserver.key": serverKey,
		"kubelet-client.crt": kubelet, "kubelet-client.key": kubeletKey,
	} {
		write(t, filepath.Join(dir, name), data)
	}
	if _, err := os.Stat(filepath.Join(dir, "sa.key")); err != nil {
		write(t, filepath.Join(dir, "sa.key"), keyPEM(t, newKey(t)))
	}
	return a
}

// Issue signs a certificate that is good for a client and for a server on loopback.
func (a *Authority) Issue(t testing.TB, name pkix.Name) (cert, key []byte) {
	t.Helper()
	k := newKey(t)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: name,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM(t, k)
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keyPEM(t testing.TB, k *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
