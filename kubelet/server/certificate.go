package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

// Files returns a function that gives the certificate in two PEM files, read again when they change. The first read
// happens now, so that a wrong file is an error at start.
func Files(certFile, keyFile string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	f := &changing[*tls.Certificate]{paths: []string{certFile, keyFile}, read: func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(certFile, keyFile)
		if err != nil {
			return nil, fmt.Errorf("read the server's certificate: %w", err)
		}
		return &pair, nil
	}}
	if _, err := f.get(); err != nil {
		return nil, err
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.get() }, nil
}

// CAFile returns a function that gives the authorities in a PEM file, read again when it changes.
func CAFile(path string) (func() *x509.CertPool, error) {
	f := &changing[*x509.CertPool]{paths: []string{path}, read: func() (*x509.CertPool, error) {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read the authorities of client certificates: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(data) {
			return nil, fmt.Errorf("%s holds no certificate", path)
		}
		return pool, nil
	}}
	if _, err := f.get(); err != nil {
		return nil, err
	}
	return func() *x509.CertPool {
		pool, err := f.get()
		if err != nil {
			return nil
		}
		return pool
	}, nil
}

// changing is a value read from files, read again when one's time of change moves. While the new files cannot be read,
// the old value is kept.
type changing[T any] struct {
	paths []string
	read  func() (T, error)

	mu    sync.Mutex
	value T
	have  bool
	stamp string
}

func (c *changing[T]) get() (T, error) {
	stamp := ""
	for _, p := range c.paths {
		if info, err := os.Stat(p); err == nil {
			stamp += info.ModTime().String() + fmt.Sprint(info.Size())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.have && stamp == c.stamp {
		return c.value, nil
	}
	value, err := c.read()
	if err != nil {
		if c.have {
			return c.value, nil
		}
		return value, err
	}
	c.value, c.have, c.stamp = value, true, stamp
	return value, nil
}

// SelfSigned makes a certificate for the names and addresses that no authority vouches for, as upstream's kubelet does when
// it is given none.
func SelfSigned(hosts ...string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key for the server: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: hosts[0]},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for the server: %w", err)
	}
	cert := &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }, nil
}
