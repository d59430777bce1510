package podcert

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

func TestNewKey(t *testing.T) {
	for kind, want := range map[string]string{
		"ECDSAP256": "P-256", "ECDSAP384": "P-384", "ECDSAP521": "P-521", "ED25519": "ed25519", "RSA3072": "rsa 3072", "RSA4096": "rsa 4096",
	} {
		key, proof, err := newKey(kind)
		if err != nil {
			t.Fatal(err)
		}
		block, rest := pem.Decode(key)
		private, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil || block.Type != "PRIVATE KEY" || len(rest) != 0 {
			t.Fatalf("%s: %s, %v", kind, block.Type, err)
		}
		got := ""
		switch k := private.(type) {
		case *ecdsa.PrivateKey:
			got = k.Curve.Params().Name
		case *rsa.PrivateKey:
			got = fmt.Sprintf("rsa %d", k.N.BitLen())
		case ed25519.PrivateKey:
			got = "ed25519"
		}
		if got != want {
			t.Errorf("%s: %s", kind, got)
		}
		csr, err := x509.ParseCertificateRequest(proof)
		if err != nil || csr.CheckSignature() != nil || csr.Subject.String() != "" {
			t.Errorf("%s: the proof: %v, %v", kind, err, csr)
		}
	}
	if _, _, err := newKey("DSA"); err == nil || err.Error() != `unknown key type "DSA"` {
		t.Errorf("%v", err)
	}
}

// signer answers requests of a cluster: it checks the proof and signs for the key that it is made with.
type signer struct {
	client kubernetes.Interface
	ca     *x509.Certificate
	key    ed25519.PrivateKey
	refuse atomic.Bool
	asked  chan *certv1.PodCertificateRequest // gets each request once dealt with
}

func startSigner(t *testing.T, client kubernetes.Interface) *signer {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{client: client, key: private, asked: make(chan *certv1.PodCertificateRequest, 10)}
	if s.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	w, err := client.CertificatesV1().PodCertificateRequests("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for e := range w.ResultChan() {
			if pcr, ok := e.Object.(*certv1.PodCertificateRequest); ok && len(pcr.Status.Conditions) == 0 {
				s.answer(t, pcr.DeepCopy())
			}
		}
	}()
	t.Cleanup(w.Stop)
	return s
}

func (s *signer) answer(t *testing.T, pcr *certv1.PodCertificateRequest) {
	csr, err := x509.ParseCertificateRequest(pcr.Spec.StubPKCS10Request)
	if err != nil || csr.CheckSignature() != nil {
		t.Errorf("the request proves nothing: %v", err)
		return
	}
	now := time.Now()
	life := time.Duration(*pcr.Spec.MaxExpirationSeconds) * time.Second
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotAfter: now.Add(life), DNSNames: []string{pcr.Spec.PodName}}
	der, err := x509.CreateCertificate(rand.Reader, leaf, s.ca, csr.PublicKey, s.key)
	if err != nil {
		t.Error(err)
		return
	}
	condition := certv1.PodCertificateRequestConditionTypeIssued
	if s.refuse.Load() {
		condition = certv1.PodCertificateRequestConditionTypeDenied
	}
	pcr.Status = certv1.PodCertificateRequestStatus{CertificateChain: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		Conditions: []metav1.Condition{{Type: condition, Reason: "Said", Message: "so"}}, NotBefore: &metav1.Time{Time: now},
		BeginRefreshAt: &metav1.Time{Time: now.Add(life / 2)}, NotAfter: &metav1.Time{Time: now.Add(life)}}
	if _, err := s.client.CertificatesV1().PodCertificateRequests(pcr.Namespace).UpdateStatus(context.Background(), pcr, metav1.UpdateOptions{}); err != nil {
		t.Error(err)
	}
	s.asked <- pcr
}

// told collects events.
type told chan string

func (e told) Warning(_ *v1.Pod, _, reason, format string, args ...any) {
	e <- reason + ": " + fmt.Sprintf(format, args...)
}

func pod() *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "pod-uid"}, Spec: v1.PodSpec{ServiceAccountName: "sa",
		Volumes: []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{}, {
			PodCertificate: &v1.PodCertificateProjection{SignerName: "example.org/s", KeyType: "ED25519", MaxExpirationSeconds: ptr.To[int32](3600),
				UserAnnotations: map[string]string{"example.org/a": "1"}}}}}}}}}}
}

// TestCertificate gets a certificate from a signer, renews it at its time, and is refused a third one.
func TestCertificate(t *testing.T) {
	client := fake.NewClientset(&v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "sa", UID: "sa-uid"}})
	made := 0
	client.PrependReactor("create", "podcertificaterequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		made++ // the fake gives no names of its own
		pcr := a.(clienttesting.CreateAction).GetObject().(*certv1.PodCertificateRequest)
		pcr.Name = pcr.GenerateName + strconv.Itoa(made)
		return false, nil, nil
	})
	signer := startSigner(t, client)
	events := make(told, 10)
	changed := make(chan types.UID, 100)
	ahead := atomic.Int64{}
	var node atomic.Value
	node.Store(types.UID(""))
	s, err := New(Config{Client: client, Node: "node", NodeUID: func() types.UID { return node.Load().(types.UID) }, Events: events,
		Changed: func(uid types.UID) { changed <- uid }, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	if _, _, err := s.Certificate(ctx, pod(), "v", 0); err == nil || !strings.Contains(err.Error(), "does not contain the named podCertificate projected volume source") {
		t.Errorf("a source that is none: %v", err)
	}
	if _, _, err := s.Certificate(ctx, pod(), "v", 1); err == nil || !strings.Contains(err.Error(), "node") {
		t.Errorf("before the node is known: %v", err)
	}
	node.Store(types.UID("node-uid"))
	get := func() string {
		t.Helper()
		key, chain, err := s.Certificate(ctx, pod(), "v", 1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tls.X509KeyPair(chain, key); err != nil {
			t.Fatal(err)
		}
		return string(chain)
	}
	first := get()
	spec := (<-signer.asked).Spec
	if spec.SignerName != "example.org/s" || spec.PodName != "p" || spec.PodUID != "pod-uid" || spec.ServiceAccountName != "sa" || spec.ServiceAccountUID != "sa-uid" ||
		spec.NodeName != "node" || spec.NodeUID != "node-uid" || spec.UnverifiedUserAnnotations["example.org/a"] != "1" {
		t.Errorf("asked for %+v", spec)
	}
	if uid := <-changed; uid != "pod-uid" {
		t.Errorf("changed: %q", uid)
	}
	if get() != first {
		t.Error("another certificate before its time")
	}
	ahead.Store(int64(36 * time.Minute)) // half its life, and the most that jitter adds
	if get() != first {
		t.Error("another certificate before the signer answered")
	}
	<-signer.asked
	<-changed // seen: the next look shows it
	if get() == first {
		t.Error("not renewed")
	}
	signer.refuse.Store(true)
	ahead.Store(int64(72 * time.Minute))
	get()
	<-signer.asked
	<-changed
	if _, _, err := s.Certificate(ctx, pod(), "v", 1); err == nil || err.Error() != `PodCertificateRequest was permanently denied: reason="Said" message="so"` {
		t.Errorf("refused: %v", err)
	}
	for e := range events {
		if strings.HasPrefix(e, "Denied: ") {
			break
		}
	}
	s.Forget("pod-uid")
	signer.refuse.Store(false)
	get() // from the beginning
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
