package apiserver_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/skiff-node/skiff/controlplane/apiserver"
	"github.com/skiff-node/skiff/controlplane/apiserver/apiservertest"
)

// account creates a service account.
func account(t *testing.T, c kubernetes.Interface, name string) {
	t.Helper()
	eventually(t, "service account "+name, func() error {
		sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		_, err := c.CoreV1().ServiceAccounts("default").Create(context.Background(), sa, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

func TestWhoMayDoWhat(t *testing.T) {
	e := apiservertest.Start(t, nil)
	ctx := context.Background()
	admin := kubernetes.NewForConfigOrDie(e.Admin(t))
	account(t, admin, "default")

	t.Run("anonymous", func(t *testing.T) {
		c := kubernetes.NewForConfigOrDie(rest.AnonymousClientConfig(e.Admin(t)))
		if _, err := c.CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("list pods: %v", err)
		}
		if _, err := c.Discovery().ServerVersion(); err != nil {
			t.Errorf("version: %v", err)
		}
	})
	t.Run("wrong token", func(t *testing.T) {
		cfg := rest.AnonymousClientConfig(e.Admin(t))
		cfg.BearerToken = "wrong"
		if _, err := kubernetes.NewForConfigOrDie(cfg).CoreV1().Pods("default").List(ctx, metav1.ListOptions{}); !apierrors.IsUnauthorized(err) {
			t.Errorf("list pods: %v", err)
		}
	})
	t.Run("component of the control plane, before its role is stored", func(t *testing.T) {
		c := kubernetes.NewForConfigOrDie(e.Client(t, "system:kube-scheduler"))
		if _, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{}); err != nil {
			t.Errorf("list pods: %v", err)
		}
		if _, err := c.CoreV1().Secrets("").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
			t.Errorf("list secrets: %v", err)
		}
	})
	t.Run("service account", func(t *testing.T) { serviceAccountToken(t, e, admin) })
	t.Run("bootstrap token", func(t *testing.T) { bootstrapToken(t, e, admin) })
	t.Run("node", func(t *testing.T) { node(t, e, admin) })
	t.Run("node and devices", func(t *testing.T) { nodeDevices(t, e, admin) })
}

func serviceAccountToken(t *testing.T, e *apiservertest.Env, admin kubernetes.Interface) {
	ctx := context.Background()
	p, err := admin.CoreV1().Pods("default").Create(ctx, pod("bound"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hour := int64(3600)
	req := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &hour,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID},
	}}
	got, err := admin.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", req, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := rest.AnonymousClientConfig(e.Admin(t))
	cfg.BearerToken = got.Status.Token
	c := kubernetes.NewForConfigOrDie(cfg)
	me, err := c.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil || me.Status.UserInfo.Username != "system:serviceaccount:default:default" {
		t.Fatalf("who am I: %v, %+v", err, me)
	}
	review, err := admin.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: got.Status.Token},
	}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated {
		t.Errorf("token review: %v, %+v", err, review)
	}
	access, err := admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: "system:serviceaccount:default:default", ResourceAttributes: &authorizationv1.ResourceAttributes{Verb: "list", Resource: "secrets"},
		},
	}, metav1.CreateOptions{})
	if err != nil || access.Status.Allowed {
		t.Errorf("access review: %v, %+v", err, access)
	}
	now := int64(0)
	if err := admin.CoreV1().Pods("default").Delete(ctx, p.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the token dies with its pod", func() error {
		_, err := c.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if apierrors.IsUnauthorized(err) {
			return nil
		}
		return fmt.Errorf("still good: %v", err)
	})
}

func bootstrapToken(t *testing.T, e *apiservertest.Env, admin kubernetes.Interface) {
	ctx := context.Background()
	eventually(t, "namespace kube-system", func() error {
		_, err := admin.CoreV1().Secrets("kube-system").Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-abcdef"},
			Type:       "bootstrap.kubernetes.io/token",
			StringData: map[string]string{
				"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
				"expiration": time.Now().Add(time.Hour).Format(time.RFC3339), "auth-extra-groups": "system:bootstrappers:skiff",
			},
		}, metav1.CreateOptions{})
		return err
	})
	for token, good := range map[string]bool{"abcdef.0123456789abcdef": true, "abcdef.0123456789abcdee": false, "abcdeg.0123456789abcdef": false} {
		cfg := rest.AnonymousClientConfig(e.Admin(t))
		cfg.BearerToken = token
		me, err := kubernetes.NewForConfigOrDie(cfg).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if good && (err != nil || me.Status.UserInfo.Username != "system:bootstrap:abcdef") {
			t.Errorf("%s: %v, %+v", token, err, me)
		}
		if !good && !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %v", token, err)
		}
	}
}

// node registers itself, sees the secrets of its own pods only, and may not touch other nodes.
func node(t *testing.T, e *apiservertest.Env, admin kubernetes.Interface) {
	ctx := context.Background()
	c := kubernetes.NewForConfigOrDie(e.Client(t, "system:node:n1", "system:nodes"))
	if _, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("create another node: %v", err)
	}
	for _, name := range []string{"mine", "other"} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := admin.CoreV1().Secrets("default").Create(ctx, s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p := pod("on-n1")
	p.Spec.NodeName = "n1"
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mine"}}}}
	if _, err := admin.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "secret of its pod", func() error {
		_, err := c.CoreV1().Secrets("default").Get(ctx, "mine", metav1.GetOptions{})
		return err
	})
	if _, err := c.CoreV1().Secrets("default").Get(ctx, "other", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("secret of no pod of it: %v", err)
	}
	list, err := c.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=n1"})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("list own pods: %v, %d", err, len(list.Items))
	}
	p.Name, p.Status = "on-n1", corev1.PodStatus{Phase: corev1.PodRunning}
	if _, err := c.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
		t.Errorf("update status: %v", err)
	}
}

// nodeDevices: a node reads the resource claims of its own pods only, and publishes and deletes devices of its own only.
func nodeDevices(t *testing.T, e *apiservertest.Env, admin kubernetes.Interface) {
	ctx := context.Background()
	c := kubernetes.NewForConfigOrDie(e.Client(t, "system:node:n1", "system:nodes")).ResourceV1()
	for _, name := range []string{"mine", "other"} {
		claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
		claim.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c"}}}
		if _, err := admin.ResourceV1().ResourceClaims("default").Create(ctx, claim, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p, mine := pod("with-device"), "mine"
	p.Spec.NodeName, p.Spec.ResourceClaims = "n1", []corev1.PodResourceClaim{{Name: "d", ResourceClaimName: &mine}}
	if _, err := admin.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "claim of its pod", func() error {
		_, err := c.ResourceClaims("default").Get(ctx, "mine", metav1.GetOptions{})
		return err
	})
	if _, err := c.ResourceClaims("default").Get(ctx, "other", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("claim of no pod of it: %v", err)
	}
	for node, allowed := range map[string]bool{"n1": true, "n2": false} {
		slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node}}
		slice.Spec = resourcev1.ResourceSliceSpec{Driver: "d.example.org", NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1}, Devices: []resourcev1.Device{{Name: "d"}}}
		if _, err := c.ResourceSlices().Create(ctx, slice, metav1.CreateOptions{}); (err == nil) != allowed || (err != nil && !apierrors.IsForbidden(err)) {
			t.Errorf("publish devices of %s: %v", node, err)
		}
		err := c.ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
		if (err == nil) != allowed || (err != nil && !apierrors.IsForbidden(err)) {
			t.Errorf("delete devices of %s: %v", node, err)
		}
	}
	if left, err := admin.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{}); err != nil || len(left.Items) != 0 {
		t.Errorf("left: %v %v", left, err)
	}
}

// TestEvictionAndDisruption evicts through pods/eviction; a budget holds it up.
func TestEvictionAndInformers(t *testing.T) {
	e := apiservertest.Start(t, nil)
	ctx := context.Background()
	c := kubernetes.NewForConfigOrDie(e.Admin(t))
	account(t, c, "default")
	factory := informers.NewSharedInformerFactory(c, 0)
	lister := factory.Core().V1().Pods().Lister()
	stop := make(chan struct{})
	defer func() { close(stop); factory.Shutdown() }()
	for i := range 20 {
		p := pod("p" + strconv.Itoa(i))
		p.Labels = map[string]string{"app": "a"}
		if _, err := c.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	factory.Start(stop)
	factory.WaitForCacheSync(stop)
	if p, err := lister.Pods("default").Get("p19"); err != nil || p.Labels["app"] != "a" {
		t.Errorf("informer: %v", err)
	}
	first, err := c.CoreV1().Pods("default").List(ctx, metav1.ListOptions{Limit: 7})
	if err != nil || len(first.Items) != 7 || first.Continue == "" {
		t.Fatalf("first page: %v, %d items", err, len(first.Items))
	}
	rest, err := c.CoreV1().Pods("default").List(ctx, metav1.ListOptions{Continue: first.Continue})
	if err != nil || len(rest.Items) != 13 {
		t.Errorf("second page: %v, %d items", err, len(rest.Items))
	}
	zero := intstr.FromInt32(0)
	budget := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &zero, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}},
	}
	if _, err := c.PolicyV1().PodDisruptionBudgets("default").Create(ctx, budget, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	evict := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p0"}}
	// A pending pod is no disruption, so it goes whatever the budget says.
	if err := c.CoreV1().Pods("default").EvictV1(ctx, evict); err != nil {
		t.Errorf("evict a pending pod: %v", err)
	}
	eventually(t, "informer sees the eviction", func() error {
		_, err := lister.Pods("default").Get("p0")
		if apierrors.IsNotFound(err) {
			return nil
		}
		return errors.New("still there")
	})
}

// TestKubeletRequests sends logs and the start of an exec through to a kubelet, with the server's client certificate.
func TestKubeletRequests(t *testing.T) {
	e := apiservertest.Start(t, nil)
	ctx := context.Background()
	c := kubernetes.NewForConfigOrDie(e.Admin(t))
	account(t, c, "default")
	port, seen := fakeKubelet(t, e)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}
	n, err := c.CoreV1().Nodes().Create(ctx, n, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}}
	n.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(port)
	if _, err := c.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	p := pod("p")
	p.Spec.NodeName = "n"
	if _, err := c.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	logs, err := c.CoreV1().Pods("default").GetLogs("p", &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil || string(logs) != "a line\n" {
		t.Errorf("logs: %v %q", err, logs)
	}
	if got := <-seen; got != "kube-apiserver-kubelet-client GET /containerLogs/default/p/c" {
		t.Errorf("the kubelet saw %q", got)
	}
	upgradeExec(t, e)
	if got := <-seen; !strings.HasPrefix(got, "kube-apiserver-kubelet-client") || !strings.Contains(got, "/exec/default/p/c") {
		t.Errorf("the kubelet saw %q", got)
	}
}

// fakeKubelet answers every request and tells what it saw.
func fakeKubelet(t *testing.T, e *apiservertest.Env) (port int, seen <-chan string) {
	t.Helper()
	requests := make(chan string, 10)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests <- r.TLS.PeerCertificates[0].Subject.CommonName + " " + r.Method + " " + r.URL.Path
		if r.Header.Get("Upgrade") != "" {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+r.Header.Get("Upgrade")+"\r\n\r\n")
				conn.Close()
			}
			return
		}
		_, _ = io.WriteString(w, "a line\n")
	}))
	cert, key := e.CA.Issue(t, pkix.Name{CommonName: "system:node:n"})
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().(*net.TCPAddr).Port, requests
}

// upgradeExec asks for an exec by SPDY and expects the protocol switch to come back from the kubelet.
func upgradeExec(t *testing.T, e *apiservertest.Env) {
	t.Helper()
	cfg := e.Admin(t)
	tlsConfig, err := rest.TLSConfigFor(cfg)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", e.Server.Addr().String(), tlsConfig)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "POST /api/v1/namespaces/default/pods/p/exec?command=sh&stdout=1 HTTP/1.1\r\nHost: x\r\n"+
		"Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || !strings.Contains(line, "101") {
		t.Errorf("exec: %v %q", err, line)
	}
}

// TestFrontProxy: who has a certificate of the front proxy's authority may speak for others, and is nobody by himself.
func TestFrontProxy(t *testing.T) {
	proxies := t.TempDir()
	front := apiservertest.NewAuthority(t, proxies)
	e := apiservertest.Start(t, func(c *apiserver.Config) {
		c.FrontProxy = apiserver.FrontProxy{CA: filepath.Join(proxies, "ca.crt"), AllowedNames: []string{"front-proxy-client"}}
	})
	who := func(name string, headers map[string]string) (string, error) {
		cfg := e.Admin(t)
		cfg.CertData, cfg.KeyData = front.Issue(t, pkix.Name{CommonName: name, Organization: []string{"system:masters"}})
		cfg.Wrap(func(next http.RoundTripper) http.RoundTripper { return withHeaders{next, headers} })
		me, err := kubernetes.NewForConfigOrDie(cfg).AuthenticationV1().SelfSubjectReviews().Create(context.Background(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if err != nil {
			return "", err
		}
		return me.Status.UserInfo.Username, nil
	}
	if got, err := who("front-proxy-client", map[string]string{"X-Remote-User": "jane", "X-Remote-Group": "crew"}); got != "jane" {
		t.Errorf("the proxy speaks for jane: %q, %v", got, err)
	}
	if got, err := who("front-proxy-client", nil); err == nil {
		t.Errorf("the proxy by himself is %q", got)
	}
	if got, err := who("admin", nil); err == nil {
		t.Errorf("whoever has a certificate of the front proxy's authority is %q", got)
	}
}

// withHeaders adds headers to each request.
type withHeaders struct {
	next    http.RoundTripper
	headers map[string]string
}

// RoundTrip implements http.RoundTripper.
func (w withHeaders) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, value := range w.headers {
		r.Header.Set(name, value)
	}
	return w.next.RoundTrip(r)
}
