package remote

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/remotes/docker"

	"github.com/skiff-node/skiff/imageservice/remote/hosts"
)

// newTransport makes the connections of one host. idle closes those that are not in use.
func newTransport(h hosts.Host) (rt http.RoundTripper, idle func(), err error) {
	trust, err := trustOf(h.TLS)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: host %s: %w", hosts.ErrInvalid, h.Host, err)
	}
	dial := h.DialTimeout
	if dial == 0 {
		dial = 30 * time.Second
	}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: dial, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:       trust,
		TLSHandshakeTimeout:   max(10*time.Second, h.DialTimeout),
		ResponseHeaderTimeout: 30 * time.Second,
		IdleConnTimeout:       30 * time.Second,
		MaxIdleConns:          32,
		MaxIdleConnsPerHost:   16,
		ReadBufferSize:        64 << 10,
		DisableCompression:    true, // blobs are compressed already, and their bytes are what counts
	}
	if h.PlainFallback {
		return docker.NewHTTPFallback(t), t.CloseIdleConnections, nil
	}
	return t, t.CloseIdleConnections, nil
}

func trustOf(t hosts.TLS) (*tls.Config, error) {
	c := &tls.Config{InsecureSkipVerify: t.SkipVerify, MinVersion: tls.VersionTLS12}
	if len(t.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		for _, file := range t.CA {
			pem, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("ca: %w", err)
			}
			if !pool.AppendCertsFromPEM(pem) {
				return nil, fmt.Errorf("ca: %s holds no certificate in PEM form", file)
			}
		}
		c.RootCAs = pool
	}
	for _, pair := range t.Client {
		key := pair[1]
		if key == "" {
			key = pair[0] // both in one file
		}
		cert, err := tls.LoadX509KeyPair(pair[0], key)
		if err != nil {
			return nil, fmt.Errorf("client: %s, %s: %w", pair[0], key, err)
		}
		c.Certificates = append(c.Certificates, cert)
	}
	return c, nil
}

const maxRedirects = 10

// follow lets redirects happen but takes along nothing that was meant for the host alone.
func follow(private http.Header) func(*http.Request, []*http.Request) error {
	return func(r *http.Request, via []*http.Request) error {
		if len(via) >= maxRedirects {
			return fmt.Errorf("stopped after %d redirects", maxRedirects)
		}
		if r.URL.Host == via[0].URL.Host && r.URL.Scheme == via[0].URL.Scheme {
			return nil
		}
		for _, key := range []string{"Authorization", "Cookie", "Referer"} {
			r.Header.Del(key)
		}
		for key := range private {
			r.Header.Del(key)
		}
		return nil
	}
}

// errPlainToken refuses what would send a credential in the clear.
var errPlainToken = errors.New("the registry speaks HTTPS and wants its credential at an address without: refused")

// tokenTransport is for asking token servers. The registry names them, so they get only what is asked for, and the
// host's own headers only when they are the host.
type tokenTransport struct {
	inner  http.RoundTripper
	host   hosts.Host
	secret *atomic.Bool // a credential is going to be sent
}

func (t tokenTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.secret.Load() && t.host.Scheme == "https" && !t.host.PlainFallback && r.URL.Scheme != "https" {
		return nil, errPlainToken
	}
	if r.URL.Host == t.host.Host && len(t.host.Header) > 0 {
		r = r.Clone(r.Context())
		for key, values := range t.host.Header {
			r.Header[key] = values
		}
	}
	return t.inner.RoundTrip(r)
}
