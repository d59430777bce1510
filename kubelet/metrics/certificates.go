package metrics

import (
	"crypto/tls"
	"math"
	"time"
)

// Certificates counts the renewals of the node's certificates. Its fields are what client-go's managers take.
type Certificates struct {
	ClientFailures, ServingFailures Failures
	ServingAges                     Ages
	set                             *Set
}

// Failures counts renewals that failed.
type Failures struct{ c *Counter }

// Inc counts one.
func (f Failures) Inc() { f.c.Inc() }

// Ages takes in how old certificates were when they were replaced, in seconds.
type Ages struct{ h *Histogram }

// Observe takes in one.
func (a Ages) Observe(seconds float64) { a.h.value(seconds) }

// NewCertificates adds what tells of certificates that are renewed.
func (k *Kubelet) NewCertificates() *Certificates {
	s := &k.Main
	const minute, hour, day = 60, 3600, 86400
	return &Certificates{set: s,
		ClientFailures: Failures{s.Total("kubelet_certificate_manager_client_expiration_renew_errors",
			"[ALPHA] Counter of certificate renewal errors.")},
		ServingFailures: Failures{s.Total("kubelet_server_expiration_renew_errors", "[ALPHA] Counter of certificate renewal errors.")},
		ServingAges: Ages{s.Histogram("kubelet_certificate_manager_server_rotation_seconds",
			"[ALPHA] Histogram of the number of seconds the previous certificate lived before being rotated.",
			[]float64{minute, hour, 4 * hour, day, 7 * day, 30 * day, 90 * day, 180 * day, 360 * day, 4 * 360 * day})},
	}
}

// Client and Serving add how long the current certificate is good for: infinitely when there is none, as upstream.
func (c *Certificates) Client(current func() *tls.Certificate) {
	c.lasting("kubelet_certificate_manager_client_ttl_seconds",
		"[ALPHA] Gauge of the TTL (time-to-live) of the Kubelet's client certificate. The value is in seconds until certificate expiry (negative if already expired). If client certificate is invalid or unused, the value will be +INF.", current)
}

// Serving is Client for the certificate of the server.
func (c *Certificates) Serving(current func() *tls.Certificate) {
	c.lasting("kubelet_certificate_manager_server_ttl_seconds",
		"[ALPHA] Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate. The value is in seconds until certificate expiry (negative if already expired). If serving certificate is invalid or unused, the value will be +INF.", current)
}

func (c *Certificates) lasting(name, help string, current func() *tls.Certificate) {
	c.set.Read(name, help, func(emit Emit) {
		left := math.Inf(1)
		if cert := current(); cert != nil && cert.Leaf != nil {
			left = math.Trunc(time.Until(cert.Leaf.NotAfter).Seconds())
		}
		emit(left)
	})
}
