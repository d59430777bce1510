package remote

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/remote/hosts"
)

// clientPair makes a certificate that a client shows, and its key.
func clientPair(t *testing.T) (cert *x509.Certificate, certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	return cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

// TestTrust goes through what a hosts.toml, or docker's directory of certificates, can say about TLS, against a server
// that asks for a certificate of its client.
func TestTrust(t *testing.T) {
	cert, certPEM, keyPEM := clientPair(t)
	up := &registry{}
	up.Server = httptest.NewUnstartedServer(http.HandlerFunc(up.handle))
	up.Config.ErrorLog = log.New(io.Discard, "", 0)
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	up.TLS = &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	up.StartTLS()
	t.Cleanup(up.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw})
	server := fmt.Sprintf("server = %q\n", up.URL)
	for name, tc := range map[string]struct {
		toml  string
		files map[string][]byte
		ok    bool
		want  string // of the error
	}{
		"all in place":        {server + "ca = \"ca.crt\"\nclient = [[\"c.cert\", \"c.key\"]]\n", map[string][]byte{"ca.crt": ca, "c.cert": certPEM, "c.key": keyPEM}, true, ""},
		"both in one file":    {server + "ca = [\"ca.crt\"]\nclient = \"c.pem\"\n", map[string][]byte{"ca.crt": ca, "c.pem": append(certPEM, keyPEM...)}, true, ""},
		"not verified":        {server + "skip_verify = true\nclient = [\"c.pem\"]\n", map[string][]byte{"c.pem": append(certPEM, keyPEM...)}, true, ""},
		"no CA":               {server + "client = \"c.pem\"\n", map[string][]byte{"c.pem": append(certPEM, keyPEM...)}, false, "name its CA in certs.d/r.test/hosts.toml"},
		"no client":           {server + "ca = \"ca.crt\"\n", map[string][]byte{"ca.crt": ca}, false, "certificate required"},
		"CA is missing":       {server + "ca = \"ca.crt\"\n", nil, false, "ca.crt"},
		"CA is noise":         {server + "ca = \"ca.crt\"\n", map[string][]byte{"ca.crt": []byte("x")}, false, "no certificate in PEM form"},
		"key of another":      {server + "client = [[\"c.cert\", \"c.key\"]]\n", map[string][]byte{"c.cert": ca, "c.key": keyPEM}, false, "c.cert"},
		"mirror with its own": {"[host." + fmt.Sprintf("%q", up.URL) + "]\nca = \"ca.crt\"\nclient = \"c.pem\"\n", map[string][]byte{"ca.crt": ca, "c.pem": append(certPEM, keyPEM...)}, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := configure(t, tc.toml, tc.files)
			cfg.Patience = time.Nanosecond
			s, err := Open(cfg, ref, imageservice.Auth{})
			if err == nil {
				defer s.Close()
				_, err = get(t, s)
			}
			if tc.ok && err != nil || !tc.ok && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
			if err != nil && !errors.Is(err, imageservice.ErrUnavailable) && !errors.Is(err, hosts.ErrInvalid) {
				t.Errorf("of no kind: %v", err)
			}
		})
	}
	// Docker's layout says the same by file names. The registry's own name is its address then.
	cfg := configure(t, "", map[string][]byte{"ca.crt": ca, "c.cert": certPEM, "c.key": keyPEM})
	conf, err := hosts.Find(cfg.CertsDirs, "r.test")
	if err != nil {
		t.Fatal(err)
	}
	h := conf.Hosts[0]
	h.Host = up.Listener.Addr().String()
	transport, idle, err := newTransport(h)
	if err != nil {
		t.Fatal(err)
	}
	defer idle()
	resp, err := (&http.Client{Transport: transport}).Get(up.URL + "/v2/")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}
