package podcert

import (
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var start = time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)

// answer is a request that the signer has dealt with: an hour of life, to be renewed after 40 minutes.
func answer(condition string) *certv1.PodCertificateRequest {
	at := func(d time.Duration) *metav1.Time { t := metav1.NewTime(start.Add(d)); return &t }
	return &certv1.PodCertificateRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "req-1"}, Status: certv1.PodCertificateRequestStatus{
		Conditions:       []metav1.Condition{{Type: condition, Reason: "R", Message: "m"}},
		CertificateChain: "text\n" + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Headers: map[string]string{"h": "v"}, Bytes: []byte("leaf")})),
		BeginRefreshAt:   at(40 * time.Minute), NotAfter: at(time.Hour),
	}}
}

// TestLook goes through a source's life: each line is a look, and what came of it.
func TestLook(t *testing.T) {
	old := record{key: []byte("old"), chain: []byte("c"), renewAt: start.Add(40 * time.Minute), notAfter: start.Add(time.Hour)}
	waiting := record{pending: &request{name: "req-1", key: []byte("new"), lostAt: start.Add(10 * time.Minute)}}
	renewing := old
	renewing.pending = &request{name: "req-1", key: []byte("new"), lostAt: start.Add(50 * time.Minute)}
	refused := old
	refused.final = fmt.Errorf("no")
	for _, tc := range []struct {
		name string
		r    record
		seen *certv1.PodCertificateRequest
		at   time.Duration
		want string // key, or why there is none; create; events
	}{
		{"nothing yet", record{}, nil, 0, "credential bundle is not issued yet; create"},
		{"not seen yet", waiting, nil, time.Minute, "credential bundle is not issued yet"},
		{"seen, not answered", waiting, &certv1.PodCertificateRequest{}, time.Minute, "credential bundle is not issued yet"},
		{"never seen", waiting, nil, 11 * time.Minute, "credential bundle is not issued yet; create"},
		{"issued", waiting, answer("Issued"), time.Minute, "new"},
		{"denied", waiting, answer("Denied"), time.Minute, `PodCertificateRequest was permanently denied: reason="R" message="m"; Denied: PodCertificateRequest n/req-1 was denied, reason="R", message="m"`},
		{"failed", waiting, answer("Failed"), time.Minute, `PodCertificateRequest was permanently failed: reason="R" message="m"; Failed: PodCertificateRequest n/req-1 failed, reason="R", message="m"`},
		{"final", refused, nil, time.Hour, "no"},
		{"fresh", old, nil, 39 * time.Minute, "old"},
		{"to be renewed", old, nil, 40 * time.Minute, "old; create"},
		{"renewal goes on", renewing, &certv1.PodCertificateRequest{}, 45 * time.Minute, "old"},
		{"renewal overdue", renewing, &certv1.PodCertificateRequest{}, 51 * time.Minute, "old; CertificateOverdueForRefresh: PodCertificate refresh overdue"},
		{"renewal never seen", renewing, nil, 51 * time.Minute, "old; create; CertificateOverdueForRefresh: PodCertificate refresh overdue"},
		{"expired", renewing, &certv1.PodCertificateRequest{}, 61 * time.Minute, "old; CertificateOverdueForRefresh: PodCertificate refresh overdue; CertificateExpired: PodCertificate expired"},
		{"renewed", renewing, answer("Issued"), 39 * time.Minute, "new"},
		{"renewal denied", renewing, answer("Denied"), 45 * time.Minute, `PodCertificateRequest was permanently denied: reason="R" message="m"; Denied: PodCertificateRequest n/req-1 was denied, reason="R", message="m"`},
	} {
		r, todo := tc.r.look(tc.seen, start.Add(tc.at), 0)
		key, chain, err := r.bundle()
		got := []string{string(key)}
		if err != nil {
			got = []string{err.Error()}
		}
		if todo.create {
			got = append(got, "create")
		}
		for _, e := range todo.events {
			got = append(got, e.reason+": "+e.message)
		}
		if s := strings.Join(got, "; "); s != tc.want {
			t.Errorf("%s:\n got %s\nwant %s", tc.name, s, tc.want)
		}
		if string(key) == "new" && string(chain) != string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("leaf")})) {
			t.Errorf("%s: the chain is %s", tc.name, chain)
		}
		if _, again := r.look(tc.seen, start.Add(tc.at), 0); len(again.events) != 0 {
			t.Errorf("%s: told twice: %v", tc.name, again.events)
		}
	}
}

func TestState(t *testing.T) {
	r := record{key: []byte("k"), renewAt: start.Add(40 * time.Minute), notAfter: start.Add(time.Hour)}
	for at, want := range map[time.Duration]string{0: "fresh", 45 * time.Minute: "fresh", 51 * time.Minute: "overdue_for_refresh", 61 * time.Minute: "expired"} {
		if got := r.state(start.Add(at)); got != want {
			t.Errorf("after %v: %s", at, got)
		}
	}
	waiting, _ := record{}.asked(&certv1.PodCertificateRequest{}, []byte("k"), 0).look(nil, start, 0)
	denied, _ := record{}.asked(&certv1.PodCertificateRequest{}, []byte("k"), 0).look(answer("Denied"), start, 0)
	failed, _ := record{}.asked(&certv1.PodCertificateRequest{}, []byte("k"), 0).look(answer("Failed"), start, 0)
	if waiting.state(start) != "not_yet_issued" || denied.state(start) != "denied" || failed.state(start) != "failed" {
		t.Errorf("%s, %s, %s", waiting.state(start), denied.state(start), failed.state(start))
	}
}

func TestJitterMovesTheRenewal(t *testing.T) {
	r, _ := record{}.asked(&certv1.PodCertificateRequest{}, []byte("k"), 0).look(answer("Issued"), start, 3*time.Minute)
	if _, todo := r.look(nil, start.Add(42*time.Minute), 0); todo.create {
		t.Error("renewed before its time")
	}
	if _, todo := r.look(nil, start.Add(43*time.Minute), 0); !todo.create {
		t.Error("not renewed at its time")
	}
}
