//go:build e2e

package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/test/harness"
)

const certifiedPod = `
apiVersion: v1
kind: Pod
metadata: {name: certified}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 4242}
  containers:
  - name: shell
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    volumeMounts: [{name: identity, mountPath: /identity}]
  volumes:
  - name: identity
    projected:
      sources:
      - podCertificate: {signerName: example.org/fleet, keyType: ECDSAP256, maxExpirationSeconds: 3600, credentialBundlePath: both.pem, keyPath: key.pem, certificateChainPath: chain.pem}
`

// TestPodCertificate has a pod wait for a signer, which is this test, and sees the pod's key and certificate in its volume. The
// kubelet asks with the rights of its node.
func TestPodCertificate(t *testing.T) {
	h := harness.NewHost(t)
	h.Up()
	manifest(t, h, certifiedPod)
	var asked certv1.PodCertificateRequestList
	harness.Eventually(t, 60*time.Second, "the kubelet asks for a certificate", func() (bool, string) {
		out := h.Kubectl("get", "podcertificaterequests", "-o", "json")
		if err := json.Unmarshal([]byte(out), &asked); err != nil {
			t.Fatal(err)
		}
		return len(asked.Items) > 0, out
	})
	pcr := &asked.Items[0]
	if len(asked.Items) != 1 || pcr.Spec.SignerName != "example.org/fleet" || pcr.Spec.PodName != "certified" || pcr.Spec.ServiceAccountName != "default" || pcr.OwnerReferences[0].Name != "certified" {
		t.Errorf("asked for %+v", asked.Items)
	}
	status, err := json.Marshal(map[string]any{"status": sign(t, pcr)})
	if err != nil {
		t.Fatal(err)
	}
	h.Kubectl("patch", "podcertificaterequest", pcr.Name, "--subresource=status", "--type=merge", "-p", string(status))
	h.Kubectl("wait", "--for=condition=Ready", "pod/certified", "--timeout=60s")
	read := func(file string) []byte {
		return []byte(h.Kubectl("exec", "certified", "--", "cat", "/identity/"+file))
	}
	if _, err := tls.X509KeyPair(read("chain.pem"), read("key.pem")); err != nil {
		t.Errorf("key and chain: %v", err)
	}
	if both := read("both.pem"); !strings.HasPrefix(string(both), "-----BEGIN PRIVATE KEY-----") {
		t.Errorf("the bundle: %s", both)
	} else if _, err := tls.X509KeyPair(both, both); err != nil {
		t.Errorf("the bundle: %v", err)
	}
	got := h.Kubectl("exec", "certified", "--", "sh", "-c", "stat -L -c '%a %g' /identity/key.pem; stat -f -c %T /identity")
	if strings.TrimSpace(got) != "640 4242\ntmpfs" {
		t.Errorf("the key's file: %q", got)
	}
}

// sign answers a request as a signer does, after checking that the asker has the key.
func sign(t *testing.T, pcr *certv1.PodCertificateRequest) certv1.PodCertificateRequestStatus {
	t.Helper()
	csr, err := x509.ParseCertificateRequest(pcr.Spec.StubPKCS10Request)
	if err != nil || csr.CheckSignature() != nil {
		t.Fatalf("the request proves nothing: %v", err)
	}
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().Truncate(time.Second)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: now, NotAfter: now.Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{{Scheme: "spiffe", Host: "example.org", Path: "/" + pcr.Spec.PodName}}}
	issuer := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, issuer, csr.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	at := func(d time.Duration) *metav1.Time { m := metav1.NewTime(now.Add(d)); return &m }
	return certv1.PodCertificateRequestStatus{
		Conditions:       []metav1.Condition{{Type: certv1.PodCertificateRequestConditionTypeIssued, Status: metav1.ConditionTrue, Reason: "Issued", LastTransitionTime: *at(0)}},
		CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		NotBefore:        at(0), BeginRefreshAt: at(30 * time.Minute), NotAfter: at(time.Hour),
	}
}
