package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-node/skiff/kubelet/metrics"
)

// authority is an API server that approves and signs every request for a certificate at once.
type authority struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	life time.Duration

	mu    sync.Mutex
	asked []certificates.CertificateSigningRequestSpec
	csrs  map[string]*certificates.CertificateSigningRequest
	who   map[string]int // requests by bearer token or client certificate
	url   string
	ca    []byte

	closing chan struct{}
}

func newAuthority(t *testing.T, life time.Duration) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a := &authority{t: t, key: key, life: life, csrs: map[string]*certificates.CertificateSigningRequest{}, who: map[string]int{}, closing: make(chan struct{})}
	a.cert = &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	srv := httptest.NewTLSServer(a)
	t.Cleanup(func() { close(a.closing); srv.Close() })
	a.url = srv.URL
	a.ca = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw})
	return a
}

func (a *authority) sign(request []byte, life time.Duration) []byte {
	block, _ := pem.Decode(request)
	csr, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		a.t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: csr.Subject, DNSNames: csr.DNSNames, IPAddresses: csr.IPAddresses,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(life)}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.cert, csr.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("watch") != "" {
		a.watch(w, r)
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.who[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]++
	w.Header().Set("Content-Type", "application/json")
	switch {
	case r.Method == http.MethodPost:
		body, err := io.ReadAll(r.Body)
		if err != nil {
			a.t.Error(err)
		}
		got, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
		c, ok := got.(*certificates.CertificateSigningRequest)
		if !ok {
			a.t.Errorf("%T %v", got, err)
			return
		}
		c.TypeMeta = metav1.TypeMeta{Kind: "CertificateSigningRequest", APIVersion: "certificates.k8s.io/v1"}
		if c.Name == "" {
			c.Name = c.GenerateName + "1"
		}
		c.UID, c.ResourceVersion = "uid-"+"1", "1"
		a.asked = append(a.asked, c.Spec)
		c.Status.Conditions = []certificates.CertificateSigningRequestCondition{{Type: certificates.CertificateApproved, Status: v1.ConditionTrue}}
		c.Status.Certificate = a.sign(c.Spec.Request, a.life)
		a.csrs[c.Name] = c
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(c)
	default:
		list := certificates.CertificateSigningRequestList{TypeMeta: metav1.TypeMeta{Kind: "CertificateSigningRequestList", APIVersion: "certificates.k8s.io/v1"},
			ListMeta: metav1.ListMeta{ResourceVersion: "1"}}
		for _, c := range a.csrs {
			list.Items = append(list.Items, *c)
		}
		_ = json.NewEncoder(w).Encode(list)
	}
}

// watch streams what there is, and then nothing more.
func (a *authority) watch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	send := func(kind string, object any) {
		_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object})
	}
	a.mu.Lock()
	for _, c := range a.csrs {
		send("ADDED", c)
	}
	a.mu.Unlock()
	end := &certificates.CertificateSigningRequest{TypeMeta: metav1.TypeMeta{Kind: "CertificateSigningRequest", APIVersion: "certificates.k8s.io/v1"},
		ObjectMeta: metav1.ObjectMeta{ResourceVersion: "1", Annotations: map[string]string{metav1.InitialEventsAnnotationKey: "true"}}}
	send("BOOKMARK", end)
	w.(http.Flusher).Flush()
	select {
	case <-r.Context().Done():
	case <-a.closing:
	}
}

func TestBootstrap(t *testing.T) {
	a := newAuthority(t, time.Hour)
	dir := t.TempDir()
	token := filepath.Join(dir, "bootstrap.kubeconfig")
	if err := os.WriteFile(token, []byte(`
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "`+a.url+`", certificate-authority-data: `+base64.StdEncoding.EncodeToString(a.ca)+`}}]
users: [{name: u, user: {token: boot}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`), 0o600); err != nil {
		t.Fatal(err)
	}
	b := Bootstrapper{Token: token, Kubeconfig: filepath.Join(dir, "etc", "kubelet.kubeconfig"), Dir: filepath.Join(dir, "pki"), Node: "boat", Log: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := b.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if len(a.asked) != 1 || a.asked[0].SignerName != certificates.KubeAPIServerClientKubeletSignerName || a.who["boot"] == 0 {
		t.Fatalf("asked %v by %v", a.asked, a.who)
	}
	rc, err := clientcmd.BuildConfigFromFlags("", b.Kubeconfig)
	if err != nil || rc.BearerToken != "" || rc.Host != a.url {
		t.Fatalf("%+v %v", rc, err)
	}
	pair, err := tls.LoadX509KeyPair(rc.CertFile, rc.KeyFile)
	if err != nil || pair.Leaf.Subject.CommonName != "system:node:boat" || pair.Leaf.Subject.Organization[0] != "system:nodes" {
		t.Fatalf("%v %v", pair.Leaf, err)
	}
	if _, err := os.Stat(filepath.Join(b.Dir, keyFile)); !os.IsNotExist(err) {
		t.Errorf("the key of the request is left: %v", err)
	}
	if err := b.Run(ctx); err != nil || len(a.asked) != 1 {
		t.Errorf("asked again though the credentials are good: %v", err)
	}
}

// await waits for something that another goroutine does.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for late := time.Now().Add(30 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(late) {
			t.Fatal("waited in vain: " + what)
		}
	}
}

// TestClientRenews: a certificate that is about to end is replaced in the file that the API client reads.
func TestClientRenews(t *testing.T) {
	a := newAuthority(t, time.Hour)
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject("boat")}, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	ending := a.sign(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), 2*time.Second)
	rc := &rest.Config{Host: a.url, TLSClientConfig: rest.TLSClientConfig{CAData: a.ca, CertData: ending, KeyData: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})}}
	c, err := NewClient(rc, dir, "boat", metrics.NewKubelet().NewCertificates())
	if err != nil {
		t.Fatal(err)
	}
	if rc.CertFile != filepath.Join(dir, "kubelet-client-current.pem") || rc.CertData != nil {
		t.Fatalf("%+v", rc.TLSClientConfig)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	// The manager knows a certificate when its store is done with it. Files may change twice on the way: one that replaces
	// another within a second has its name.
	await(t, "a certificate that lives longer", func() bool {
		now := c.manager.Current()
		return now != nil && time.Until(now.Leaf.NotAfter) > time.Minute
	})
	if pair, err := tls.LoadX509KeyPair(rc.CertFile, rc.KeyFile); err != nil || time.Until(pair.Leaf.NotAfter) < time.Minute {
		t.Errorf("the API client reads another one: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := NewClient(&rest.Config{Host: a.url, BearerToken: "t"}, t.TempDir(), "boat", metrics.NewKubelet().NewCertificates()); err == nil || !strings.Contains(err.Error(), "rotateCertificates") {
		t.Errorf("a token cannot be renewed: %v", err)
	}
}

func TestServing(t *testing.T) {
	a := newAuthority(t, time.Hour)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: a.url, TLSClientConfig: rest.TLSClientConfig{CAData: a.ca}})
	if err != nil {
		t.Fatal(err)
	}
	addresses := []v1.NodeAddress{{Type: v1.NodeHostName, Address: "boat"}, {Type: v1.NodeInternalIP, Address: "10.0.0.1"}, {Type: v1.NodeInternalIP, Address: "10.0.0.1"}}
	s, err := NewServing(client, t.TempDir(), "boat", func() []v1.NodeAddress { return addresses }, metrics.NewKubelet().NewCertificates())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get(nil); err == nil {
		t.Error("a certificate before one was issued")
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	await(t, "a serving certificate", func() bool { _, err := s.Get(nil); return err == nil })
	c, err := s.Get(nil)
	if err != nil || c.Leaf.VerifyHostname("10.0.0.1") != nil || c.Leaf.VerifyHostname("boat") != nil {
		t.Errorf("%v %v", c, err)
	}
	if a.asked[0].SignerName != certificates.KubeletServingSignerName {
		t.Error(a.asked[0].SignerName)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if template("boat", nil) != nil {
		t.Error("asked for a certificate without addresses")
	}
}
