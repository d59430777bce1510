package podcert

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	certv1 "k8s.io/api/certificates/v1"
)

const (
	// lostAfter is how long a request that cannot be seen is waited for: the watch may lag, or somebody deleted it.
	lostAfter = 10 * time.Minute
	// overdueAfter is how long after the time of renewal a certificate counts as overdue.
	overdueAfter = 10 * time.Minute
)

// errPending is what a volume fails with until its first certificate is there.
var errPending = errors.New("credential bundle is not issued yet")

// record is what is known of one podCertificate source of a pod. The zero value knows nothing.
//
//	        request          issued            time to renew
//	nothing ───────► waiting ──────► fresh ◄──────────────────► waiting, with the old certificate
//	   ▲                │                        issued                    │
//	   └── lost ────────┼─────────► denied, failed ◄───────────────────────┘  (lost: fresh again)
//
// Denied and failed are final.
type record struct {
	// key and chain, both PEM, are what the pod gets; empty before the first certificate.
	key, chain        []byte
	renewAt, notAfter time.Time
	pending           *request // nil unless the signer is waited for
	final             error    // the signer's refusal
	refused           string   // "denied" or "failed", with final

	overdueTold, expiredTold bool
}

// request is a PodCertificateRequest under way.
type request struct {
	name   string
	key    []byte
	lostAt time.Time // when one that cannot be seen is no longer waited for
}

// step is what has to be done after a look.
type step struct {
	create bool // ask for a certificate
	events []notice
}

// notice is a warning event about the pod.
type notice struct{ reason, message string }

// look takes in what is known of the pending request, nil when it cannot be seen, and the time. jitter moves the time of
// renewal, so that many pods do not renew at once.
func (r record) look(seen *certv1.PodCertificateRequest, now time.Time, jitter time.Duration) (record, step) {
	if r.final != nil {
		return r, step{}
	}
	if r.pending != nil && seen == nil && now.After(r.pending.lostAt) {
		r.pending = nil
	}
	if r.pending != nil && seen != nil {
		done, events := r.answered(seen, jitter)
		if done.pending == nil {
			return done, step{events: events}
		}
	}
	if len(r.key) == 0 {
		return r, step{create: r.pending == nil}
	}
	if now.Before(r.renewAt) {
		return r, step{}
	}
	var s step
	r, s.events = r.late(now)
	s.create = r.pending == nil
	return r, s
}

// answered takes in the signer's answer, if there is one.
func (r record) answered(pcr *certv1.PodCertificateRequest, jitter time.Duration) (record, []notice) {
	for _, c := range pcr.Status.Conditions {
		verb := ""
		switch c.Type {
		case certv1.PodCertificateRequestConditionTypeIssued:
			if pcr.Status.BeginRefreshAt == nil || pcr.Status.NotAfter == nil {
				continue // the API refuses such a status
			}
			return record{key: r.pending.key, chain: clean([]byte(pcr.Status.CertificateChain)),
				renewAt: pcr.Status.BeginRefreshAt.Add(jitter), notAfter: pcr.Status.NotAfter.Time}, nil
		case certv1.PodCertificateRequestConditionTypeDenied:
			verb, r.refused = "was denied", "denied"
			r.final = fmt.Errorf("PodCertificateRequest was permanently denied: reason=%q message=%q", c.Reason, c.Message)
		case certv1.PodCertificateRequestConditionTypeFailed:
			verb, r.refused = "failed", "failed"
			r.final = fmt.Errorf("PodCertificateRequest was permanently failed: reason=%q message=%q", c.Reason, c.Message)
		default:
			continue
		}
		r.pending = nil
		return r, []notice{{c.Type, fmt.Sprintf("PodCertificateRequest %s/%s %s, reason=%q, message=%q", pcr.Namespace, pcr.Name, verb, c.Reason, c.Message)}}
	}
	return r, nil
}

// late tells, once each, that the certificate should have been renewed and that it does not count any more.
func (r record) late(now time.Time) (record, []notice) {
	var events []notice
	if now.After(r.renewAt.Add(overdueAfter)) && !r.overdueTold {
		r.overdueTold = true
		events = append(events, notice{"CertificateOverdueForRefresh", "PodCertificate refresh overdue"})
	}
	if now.After(r.notAfter) && !r.expiredTold {
		r.expiredTold = true
		events = append(events, notice{"CertificateExpired", "PodCertificate expired"})
	}
	return r, events
}

// asked notes that a request with that key was made.
func (r record) asked(pcr *certv1.PodCertificateRequest, key []byte, jitter time.Duration) record {
	r.pending = &request{name: pcr.Name, key: key, lostAt: pcr.CreationTimestamp.Add(lostAfter + jitter)}
	return r
}

// bundle is what the pod gets now.
func (r record) bundle() (key, chain []byte, err error) {
	switch {
	case r.final != nil:
		return nil, nil, r.final
	case len(r.key) == 0:
		return nil, nil, errPending
	}
	return r.key, r.chain, nil
}

// state is how the source is, in the words of upstream's metric.
func (r record) state(now time.Time) string {
	switch {
	case r.final != nil:
		return r.refused
	case len(r.key) == 0:
		return "not_yet_issued"
	case now.After(r.notAfter):
		return "expired"
	case now.After(r.renewAt.Add(overdueAfter)):
		return "overdue_for_refresh"
	}
	return "fresh"
}

// clean drops from the signer's chain whatever is not a certificate: text between the blocks, and their headers.
func clean(chain []byte) []byte {
	var out bytes.Buffer
	for {
		var block *pem.Block
		if block, chain = pem.Decode(chain); block == nil {
			return out.Bytes()
		}
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}))
	}
}
