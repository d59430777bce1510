package auth

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	cryptox509 "crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
)

// issuer is an authority of a test.
type issuer struct {
	cert *cryptox509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer(t *testing.T, ends time.Time) issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := issuer{key: key}
	i.cert = i.sign(t, &cryptox509.Certificate{
		Subject: pkix.Name{CommonName: "ca"}, NotAfter: ends, IsCA: true, BasicConstraintsValid: true, KeyUsage: cryptox509.KeyUsageCertSign,
	})
	return i
}

// sign makes a certificate of an authority, or without one the authority's own.
func (i issuer) sign(t *testing.T, template *cryptox509.Certificate) *cryptox509.Certificate {
	t.Helper()
	parent := i.cert
	if parent == nil {
		parent = template
	}
	template.SerialNumber, template.NotBefore = big.NewInt(time.Now().UnixNano()), time.Now().Add(-time.Hour)
	der, err := cryptox509.CreateCertificate(rand.Reader, template, parent, i.key.Public(), i.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := cryptox509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// client makes a certificate of a user.
func (i issuer) client(t *testing.T, ends time.Time, use cryptox509.ExtKeyUsage) *cryptox509.Certificate {
	t.Helper()
	return i.sign(t, &cryptox509.Certificate{
		Subject:  pkix.Name{CommonName: "boat", Organization: []string{"crew"}},
		NotAfter: ends, KeyUsage: cryptox509.KeyUsageDigitalSignature, ExtKeyUsage: []cryptox509.ExtKeyUsage{use},
	})
}

// TestCertificates: a certificate that was verified is believed as long as upstream would verify it, and no longer.
func TestCertificates(t *testing.T) {
	now := time.Now()
	ca, other := newIssuer(t, now.Add(time.Hour)), newIssuer(t, now.Add(time.Hour))
	roots := pool(ca.cert)
	c := newCertificates(func() (cryptox509.VerifyOptions, bool) {
		return cryptox509.VerifyOptions{Roots: roots, KeyUsages: []cryptox509.ExtKeyUsage{cryptox509.ExtKeyUsageClientAuth}}, roots != nil
	})
	c.now = func() time.Time { return now }
	counted := &counter{Request: c.full}
	c.full = counted
	boat := ca.client(t, now.Add(2*time.Hour), cryptox509.ExtKeyUsageClientAuth)
	for _, step := range []struct {
		what     string
		change   func()
		cert     *cryptox509.Certificate
		ok, full bool
	}{
		{"at first", func() {}, boat, true, true},
		{"again", func() {}, boat, true, false},
		{"over another connection", func() {}, parsed(t, boat), true, false},
		{"no certificate", func() {}, nil, false, true},
		{"of another authority", func() {}, other.client(t, now.Add(time.Hour), cryptox509.ExtKeyUsageClientAuth), false, true},
		{"of another authority, again", func() {}, other.client(t, now.Add(time.Hour), cryptox509.ExtKeyUsageClientAuth), false, true},
		{"for servers", func() {}, ca.client(t, now.Add(time.Hour), cryptox509.ExtKeyUsageServerAuth), false, true},
		{"that has ended", func() {}, ca.client(t, now.Add(-time.Minute), cryptox509.ExtKeyUsageClientAuth), false, true},
		{"after the file was written again", func() { roots = pool(ca.cert) }, boat, true, true},
		{"again after that", func() {}, boat, true, false},
		{"at the end of its authority", func() { now = ca.cert.NotAfter }, boat, true, true}, // by this clock alone: upstream's has an hour left
		{"when its authority is no longer believed", func() { roots = pool(other.cert) }, boat, false, true},
		{"without any authority", func() { roots = nil }, boat, false, true},
	} {
		step.change()
		counted.n = 0
		r := &http.Request{TLS: &tls.ConnectionState{}}
		if step.cert != nil {
			r.TLS.PeerCertificates = []*cryptox509.Certificate{step.cert}
		}
		response, ok, _ := c.AuthenticateRequest(r)
		if ok != step.ok || (counted.n > 0) != step.full {
			t.Errorf("%s: %v, verified with its chain %v times", step.what, ok, counted.n)
		}
		if ok && (response.User.GetName() != "boat" || response.User.GetGroups()[0] != "crew" || len(response.User.GetExtra()) != 1) {
			t.Errorf("%s: %+v", step.what, response.User)
		}
	}
}

// TestCertificatesAreFew: however many certificates come, only so many are remembered.
func TestCertificatesAreFew(t *testing.T) {
	c := newCertificates(func() (cryptox509.VerifyOptions, bool) { return cryptox509.VerifyOptions{}, false })
	for i := range verifiedLimit {
		c.verified[[32]byte{byte(i), byte(i >> 8)}] = verified{}
	}
	ca := newIssuer(t, time.Now().Add(time.Hour))
	c.remember([32]byte{0, 0, 1}, ca.client(t, time.Now().Add(time.Hour), cryptox509.ExtKeyUsageClientAuth),
		cryptox509.VerifyOptions{Roots: pool(ca.cert), KeyUsages: []cryptox509.ExtKeyUsage{cryptox509.ExtKeyUsageClientAuth}})
	if len(c.verified) != 1 {
		t.Errorf("%d are remembered", len(c.verified))
	}
}

func pool(cert *cryptox509.Certificate) *cryptox509.CertPool {
	p := cryptox509.NewCertPool()
	p.AddCert(cert)
	return p
}

// parsed is the same certificate as another connection has it.
func parsed(t *testing.T, cert *cryptox509.Certificate) *cryptox509.Certificate {
	t.Helper()
	again, err := cryptox509.ParseCertificate(cert.Raw)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

// counter counts what passes through.
type counter struct {
	authenticator.Request
	n int
}

// AuthenticateRequest implements authenticator.Request.
func (c *counter) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	c.n++
	return c.Request.AuthenticateRequest(r)
}
