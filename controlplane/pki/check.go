package pki

import (
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// due says why a certificate must be replaced at the instant now, or "" while it is good: it is not valid yet, or
// less than a third of its life remains.
func due(cert *x509.Certificate, now time.Time) string {
	if now.Before(cert.NotBefore) {
		return fmt.Sprintf("it is valid only from %s on", cert.NotBefore.Format(time.RFC3339))
	}
	if now.Before(renewAt(cert)) {
		return ""
	}
	return fmt.Sprintf("it expires at %s", cert.NotAfter.Format(time.RFC3339))
}

// renewAt is the instant at which a third of the certificate's life remains.
func renewAt(cert *x509.Certificate) time.Time {
	return cert.NotAfter.Add(-cert.NotAfter.Sub(cert.NotBefore) / 3)
}

// stale says why the certificate does not do what the leaf wants at the instant now, or "" if it does.
func stale(l leaf, cert *x509.Certificate, key *ecdsa.PrivateKey, ca *x509.Certificate, now time.Time) string {
	if why := due(cert, now); why != "" {
		return why
	}
	groups := slices.Clone(cert.Subject.Organization)
	slices.Sort(groups)
	want := slices.Clone(l.groups)
	slices.Sort(want)
	switch {
	case !key.PublicKey.Equal(cert.PublicKey):
		return "it is not for this key"
	case cert.Subject.CommonName != l.user || !slices.Equal(groups, want):
		return "its subject changed"
	case !slices.Contains(cert.ExtKeyUsage, l.usage()):
		return "its usage changed"
	case !slices.Equal(sortedNames(cert.DNSNames), append([]string{}, l.names...)):
		return "its DNS names changed"
	case !slices.EqualFunc(sortedIPs(addrs(cert.IPAddresses)), l.ips, net.IP.Equal):
		return "its addresses changed"
	case cert.CheckSignatureFrom(ca) != nil:
		return "its authority changed"
	}
	return ""
}

func addrs(ips []net.IP) []netip.Addr {
	var out []netip.Addr
	for _, ip := range ips {
		if a, ok := netip.AddrFromSlice(ip); ok {
			out = append(out, a)
		}
	}
	return out
}
