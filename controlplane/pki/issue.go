package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"time"
)

// authority signs certificates. Its key may be absent: an operator may keep it off the node, and then nothing can
// be issued here.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string // of the key, for messages
}

// ensureSigningKey makes the key pair of service account tokens.
func ensureSigningKey(files Pair) error {
	key, err := ensureKey(files.Key, true)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return fmt.Errorf("encode the public key: %w", err)
	}
	return writeIfChanged(files.Cert, encode("PUBLIC KEY", der), 0o644)
}

// ensureAuthority reads or makes a self-signed authority and renews its certificate, on the same key, when due.
func ensureAuthority(files Pair, name string, now time.Time) (authority, error) {
	cert, err := readCert(files.Cert)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		cert = nil
	case err != nil:
		return authority{}, fmt.Errorf("%w: restore it from a backup, or delete %s to make it again from its key", err, files.Cert)
	}
	if _, statErr := os.Stat(files.Key); cert != nil && errors.Is(statErr, fs.ErrNotExist) {
		return authority{cert: cert, file: files.Key}, nil
	}
	key, err := ensureKey(files.Key, true)
	if err != nil {
		return authority{}, err
	}
	if cert != nil && !key.PublicKey.Equal(cert.PublicKey) {
		return authority{}, fmt.Errorf("%s does not belong to %s: restore the pair from a backup", files.Cert, files.Key)
	}
	if cert == nil || due(cert, now) != "" {
		if cert, err = selfSign(key, name, now); err != nil {
			return authority{}, err
		}
		if err := writeDurable(files.Cert, encode("CERTIFICATE", cert.Raw), 0o644); err != nil {
			return authority{}, err
		}
	}
	return authority{cert: cert, key: key, file: files.Key}, nil
}

// ensureLeaf reads or issues one certificate.
func ensureLeaf(l leaf, ca authority, now time.Time) error {
	key, err := ensureKey(l.files.Key, false)
	if err != nil {
		return err
	}
	if cert, err := readCert(l.files.Cert); err == nil && stale(l, cert, key, ca.cert, now) == "" {
		return nil
	}
	if ca.key == nil {
		return fmt.Errorf("a new certificate is needed, but %s is missing: put it back, or supply %s", ca.file, l.files.Cert)
	}
	der, err := ca.sign(l, key, now)
	if err != nil {
		return err
	}
	return write(l.files.Cert, encode("CERTIFICATE", der), 0o644)
}

func (ca authority) sign(l leaf, key *ecdsa.PrivateKey, now time.Time) ([]byte, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: l.user, Organization: l.groups},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{l.usage()},
		DNSNames:     l.names,
		IPAddresses:  l.ips,
	}
	if template.NotAfter.After(ca.cert.NotAfter) {
		template.NotAfter = ca.cert.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return der, nil
}

func selfSign(key *ecdsa.PrivateKey, name string, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encode the authority's public key: %w", err)
	}
	id := sha256.Sum256(point)
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		// The same key must give the same id after a renewal, or old leaves would name another authority.
		SubjectKeyId: id[:20],
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority: %w", err)
	}
	return x509.ParseCertificate(der)
}

func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// ensureKey reads or makes a private key. A precious one (of an authority, of tokens) is synced to disk and never
// replaced; any other that cannot be read is made anew.
func ensureKey(file string, precious bool) (*ecdsa.PrivateKey, error) {
	key, err := readKey(file)
	if err == nil {
		return key, nil
	}
	if precious && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: restore it from a backup", err)
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode a key: %w", err)
	}
	save := write
	if precious {
		save = writeDurable
	}
	return key, save(file, encode("EC PRIVATE KEY", der), 0o600)
}
