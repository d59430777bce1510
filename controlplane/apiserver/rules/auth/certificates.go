package auth

import (
	"crypto/sha256"
	cryptox509 "crypto/x509"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/x509"
)

// verifiedLimit bounds how many verified certificates are remembered: those of nodes, components and administrators.
const verifiedLimit = 1024

// certificates is upstream's authenticator of client certificates, which verifies a certificate with each request. Here its signature
// is checked once: that is most of what authentication costs.
//
// For a certificate that has been verified, upstream's authenticator is given roots that consist of this certificate. Go takes it
// for a chain of one, and checks its dates and what it is for, but no signature. The chain that was found at first still
// counts: the certificate is verified anew when the client CA's file has changed, or when an authority of the chain has ended.
type certificates struct {
	options x509.VerifyOptionFunc // the client CA as it is now
	full    authenticator.Request
	now     func() time.Time

	mu       sync.Mutex
	verified map[[sha256.Size]byte]verified
}

// verified is what is known of a certificate whose chain leads to a root.
type verified struct {
	roots *cryptox509.CertPool // where the chain ends
	until time.Time            // when the first certificate of the chain ends
	short authenticator.Request
}

func newCertificates(options x509.VerifyOptionFunc) *certificates {
	return &certificates{
		options: options, full: x509.NewDynamic(options, x509.CommonNameUserConversion), now: time.Now,
		verified: map[[sha256.Size]byte]verified{},
	}
}

// AuthenticateRequest implements authenticator.Request. A client that sends intermediate certificates is verified with them each
// time.
func (c *certificates) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	options, ok := c.options()
	if !ok || r.TLS == nil || len(r.TLS.PeerCertificates) != 1 {
		return c.full.AuthenticateRequest(r)
	}
	cert := r.TLS.PeerCertificates[0]
	key := sha256.Sum256(cert.Raw)
	c.mu.Lock()
	known, ok := c.verified[key]
	c.mu.Unlock()
	if ok && known.roots == options.Roots && c.now().Before(known.until) {
		return known.short.AuthenticateRequest(r)
	}
	response, ok, err := c.full.AuthenticateRequest(r)
	if ok && err == nil {
		c.remember(key, cert, options)
	}
	return response, ok, err
}

// remember notes that a certificate is verified, if it still is.
func (c *certificates) remember(key [sha256.Size]byte, cert *cryptox509.Certificate, options cryptox509.VerifyOptions) {
	chains, err := cert.Verify(options)
	if err != nil {
		return
	}
	v := verified{roots: options.Roots, until: cert.NotAfter}
	for _, link := range chains[0] {
		if link.NotAfter.Before(v.until) {
			v.until = link.NotAfter
		}
	}
	options.Roots = cryptox509.NewCertPool()
	options.Roots.AddCert(cert)
	v.short = x509.New(options, x509.CommonNameUserConversion)
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.verified) >= verifiedLimit {
		clear(c.verified)
	}
	c.verified[key] = v
}
