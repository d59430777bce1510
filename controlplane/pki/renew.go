package pki

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"
)

// Renewer keeps the certificates of a running process valid.
type Renewer struct {
	Config Config        // as given to Ensure
	Every  time.Duration // how often to look; default one hour, far below the third of a year that remains
}

// Run ensures the certificates now and then until ctx ends, and returns its error. A failed attempt is logged and
// made again at the next turn: there are months to repair what hinders it.
func (r Renewer) Run(ctx context.Context) error {
	every := r.Every
	if every <= 0 {
		every = time.Hour
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
			if _, err := Ensure(r.Config); err != nil {
				slog.Error("certificates could not be renewed", "err", err)
			}
		}
	}
}

// Reloader gives the current certificate of a pair of files. A look costs one stat per handshake; the files are
// read again only when the certificate's file is another one than before.
type Reloader struct {
	files Pair

	mu     sync.Mutex
	loaded os.FileInfo
	cert   *tls.Certificate
}

// NewReloader reads the pair once, so that a wrong one is found at the start.
func NewReloader(files Pair) (*Reloader, error) {
	r := &Reloader{files: files}
	if _, err := r.Current(); err != nil {
		return nil, err
	}
	return r, nil
}

// Current returns the certificate as it is on disk. While the files cannot be read it goes on returning the last
// good one.
func (r *Reloader) Current() (*tls.Certificate, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	info, err := os.Stat(r.files.Cert)
	if err == nil && r.cert != nil && os.SameFile(info, r.loaded) && info.ModTime().Equal(r.loaded.ModTime()) {
		return r.cert, nil
	}
	if err == nil {
		var cert tls.Certificate
		if cert, err = tls.LoadX509KeyPair(r.files.Cert, r.files.Key); err == nil {
			r.cert, r.loaded = &cert, info
			return r.cert, nil
		}
	}
	if r.cert != nil {
		return r.cert, nil
	}
	return nil, fmt.Errorf("load certificate %s: %w", r.files.Cert, err)
}

// GetCertificate fits tls.Config.GetCertificate.
func (r *Reloader) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) { return r.Current() }

// GetClientCertificate fits tls.Config.GetClientCertificate.
func (r *Reloader) GetClientCertificate(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return r.Current()
}
