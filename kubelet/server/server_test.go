package server

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	authnv1 "k8s.io/api/authentication/v1"
	authzv1 "k8s.io/api/authorization/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cri is a runtime with one container, "c1" of pod ns/web.
type cri struct {
	runtimeapi.RuntimeServiceClient
	url, log string
	mu       sync.Mutex
	state    runtimeapi.ContainerState
	exec     *runtimeapi.ExecRequest
}

func (c *cri) ListContainers(_ context.Context, r *runtimeapi.ListContainersRequest, _ ...grpc.CallOption) (*runtimeapi.ListContainersResponse, error) {
	labels := map[string]string{labelUID: "u1", labelContainer: "app", labelPodName: "web", labelNamespace: "ns"}
	for k, v := range r.GetFilter().GetLabelSelector() {
		if labels[k] != v {
			return &runtimeapi.ListContainersResponse{}, nil
		}
	}
	return &runtimeapi.ListContainersResponse{Containers: []*runtimeapi.Container{
		{Id: "c0", CreatedAt: 1, Labels: labels}, {Id: "c1", CreatedAt: 2, Labels: labels}}}, nil
}

func (c *cri) ListPodSandbox(context.Context, *runtimeapi.ListPodSandboxRequest, ...grpc.CallOption) (*runtimeapi.ListPodSandboxResponse, error) {
	return &runtimeapi.ListPodSandboxResponse{Items: []*runtimeapi.PodSandbox{{Id: "s1"}}}, nil
}

func (c *cri) Exec(_ context.Context, r *runtimeapi.ExecRequest, _ ...grpc.CallOption) (*runtimeapi.ExecResponse, error) {
	c.exec = r
	return &runtimeapi.ExecResponse{Url: c.url + "/exec/token"}, nil
}

func (c *cri) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest, _ ...grpc.CallOption) (*runtimeapi.PortForwardResponse, error) {
	return &runtimeapi.PortForwardResponse{Url: fmt.Sprintf("%s/portforward/%s/%v", c.url, r.PodSandboxId, r.Port)}, nil
}

func (c *cri) ExecSync(_ context.Context, r *runtimeapi.ExecSyncRequest, _ ...grpc.CallOption) (*runtimeapi.ExecSyncResponse, error) {
	return &runtimeapi.ExecSyncResponse{Stdout: []byte(r.ContainerId + strings.Join(r.Cmd, "+"))}, nil
}

func (c *cri) ContainerStatus(_ context.Context, r *runtimeapi.ContainerStatusRequest, _ ...grpc.CallOption) (*runtimeapi.ContainerStatusResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return &runtimeapi.ContainerStatusResponse{Status: &runtimeapi.ContainerStatus{Id: r.ContainerId, LogPath: c.log, State: c.state}}, nil
}

func web() *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", UID: "u1"},
		Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app"}, {Name: "slow"}}},
		Status: v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{
			{Name: "app", ContainerID: "skiff://c1", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}},
			{Name: "slow", State: v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}}}}}
}

// api answers reviews: token "good" is ann; ann may get pods and logs, and everybody in group masters anything.
func api(t *testing.T) (*fake.Clientset, *[]string) {
	t.Helper()
	client, asked := fake.NewClientset(), &[]string{}
	var mu sync.Mutex
	client.PrependReactor("create", "tokenreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authnv1.TokenReview).DeepCopy()
		if r.Spec.Token == "good" {
			r.Status = authnv1.TokenReviewStatus{Authenticated: true, User: authnv1.UserInfo{Username: "ann"}}
		}
		return true, r, nil
	})
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		r := a.(clienttesting.CreateAction).GetObject().(*authzv1.SubjectAccessReview).DeepCopy()
		at := r.Spec.ResourceAttributes
		*asked = append(*asked, fmt.Sprintf("%s %s %s/%s/%s", r.Spec.User, at.Verb, at.Resource, at.Name, at.Subresource))
		r.Status.Allowed = slices.Contains(r.Spec.Groups, "masters") || r.Spec.User == "ann" && at.Subresource == "pods"
		return true, r, nil
	})
	return client, asked
}

func newTest(t *testing.T, change func(*Config)) (*httptest.Server, *cri) {
	t.Helper()
	rt := &cri{state: runtimeapi.ContainerState_CONTAINER_RUNNING}
	cert, err := SelfSigned("node", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Certificate: cert, NodeName: "n1", Pods: func() []*v1.Pod { return []*v1.Pod{web()} }, Runtime: rt,
		Auth: Auth{AlwaysAllow: true, Anonymous: true}, About: About{Configz: map[string]string{"a": "b"}, Version: "v1.37.2", Flags: map[string]string{"root-dir": "/r"}},
		Pages: map[string]http.Handler{"/metrics": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "up 1") })}}
	if change != nil {
		change(&cfg)
	}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(s.Handler())
	srv.TLS = s.tlsConfig()
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv, rt
}

func get(t *testing.T, c *http.Client, method, url, token string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestPages(t *testing.T) {
	srv, _ := newTest(t, nil)
	for _, tc := range []struct {
		method, path string
		code         int
		body         string
	}{
		{"GET", "/healthz", 200, "ok"},
		{"GET", "/healthz/ping", 200, "ok"},
		{"GET", "/healthz/syncloop", 200, "ok"},
		{"GET", "/healthz/none", 404, "404 page not found\n"},
		{"GET", "/healthz?verbose", 200, "[+]ping ok\n[+]log ok\n[+]syncloop ok\nhealthz check passed\n"},
		{"GET", "/healthz?verbose&exclude=log", 200, "[+]log excluded: ok\n"},
		{"GET", "/pods/", 200, `"name":"web"`},
		{"HEAD", "/pods", 405, ""},
		{"HEAD", "/metrics", 200, ""},
		{"DELETE", "/metrics", 405, "405: Method Not Allowed"},
		{"GET", "/stats", 404, "404: Page Not Found"},
		{"GET", "/run/ns/web", 404, "404: Page Not Found"},
		{"DELETE", "/exec/ns/web/app", 405, "405: Method Not Allowed"},
		{"POST", "/containerLogs/ns/web/app", 405, "405: Method Not Allowed"},
		{"GET", "/containerLogs/ns/none/app", 404, `pod "none" does not exist`},
		{"GET", "/statusz", 200, "kubelet statusz"},
		{"GET", "/flagz", 200, "root-dir"},
		{"GET", "/logs/", 405, "logs endpoint is disabled."},
		{"PUT", "/debug/flags/v", 405, "flags endpoint is disabled."},
		{"GET", "/debug/pprof/cmdline", 200, ""},
		{"GET", "/pods", 200, `"name":"web"`},
		{"POST", "/pods", 405, "405: Method Not Allowed"},
		{"GET", "/runningpods/", 200, `"name":"app"`},
		{"GET", "/metrics", 200, "up 1"},
		{"GET", "/configz", 200, `{"kubeletconfig":{"a":"b"}}`},
		{"POST", "/run/ns/web/app?cmd=ls+-l", 200, "c1ls+-l"},
		{"POST", "/run/ns/web/u1/app?cmd=ls", 200, "c1ls"},
		{"POST", "/run/ns/web/other/app?cmd=ls", 404, "pod does not exist"},
		{"GET", "/run/ns/web/app", 405, ""},
		{"POST", "/exec/ns/web/app?command=sh", 400, "at least 1 of stdin"},
		{"POST", "/exec/ns/web/none?command=sh&output=1", 500, `container not found ("none")`},
		{"POST", "/exec/ns/none/app?command=sh&output=1", 404, "pod does not exist"},
		{"POST", "/exec/ns/web/app?command=sh&output=1", 400, ""},
		{"POST", "/portForward/ns/web?port=x", 400, "not a number"},
		{"GET", "/containerLogs/ns/web/none", 404, `container "none" not found in pod "web"`},
		{"GET", "/containerLogs/ns/web/slow", 400, `container "slow" in pod "web" is waiting to start: ContainerCreating`},
		{"GET", "/containerLogs/ns/web/app?previous=true", 400, `previous terminated container "app" in pod "web" not found`},
		{"GET", "/containerLogs/ns/web/app?tailLines=-1", 422, "tailLines"},
		{"GET", "/none", 404, ""},
	} {
		code, body := get(t, srv.Client(), tc.method, srv.URL+tc.path, "")
		if code != tc.code || !strings.Contains(body, tc.body) {
			t.Errorf("%s %s: %d %q, want %d %q", tc.method, tc.path, code, body, tc.code, tc.body)
		}
	}
}

func TestTokensAndAccess(t *testing.T) {
	client, asked := api(t)
	srv, _ := newTest(t, func(c *Config) { c.Auth = Auth{Client: client, Tokens: true} })
	for _, tc := range []struct {
		path, token string
		code        int
	}{
		{"/pods", "", 401}, {"/pods", "bad", 401}, {"/pods", "good", 200}, {"/pods", "good", 200},
		{"/metrics", "good", 403}, {"/metrics", "good", 403}, {"/exec/ns/web/app", "good", 403}, {"/healthz", "good", 403},
	} {
		if code, body := get(t, srv.Client(), "GET", srv.URL+tc.path, tc.token); code != tc.code {
			t.Errorf("%s with %q: %d %s, want %d", tc.path, tc.token, code, body, tc.code)
		}
	}
	want := []string{"ann get nodes/n1/pods", "ann get nodes/n1/metrics", "ann get nodes/n1/proxy", "ann get nodes/n1/healthz"}
	if !slices.Equal(*asked, want) {
		t.Errorf("asked %q, want %q (answers are remembered)", *asked, want)
	}
}

// issue makes a certificate; without a parent it signs itself.
func issue(t *testing.T, cn string, groups []string, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: cn, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if parent == nil {
		tmpl.IsCA, tmpl.BasicConstraintsValid, tmpl.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, parentKey = tmpl, key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestClientCertificates(t *testing.T) {
	client, _ := api(t)
	ca, caKey := issue(t, "ca", nil, nil, nil)
	other, otherKey := issue(t, "other", nil, nil, nil)
	pool := x509.NewCertPool()
	pool.AddCert(ca)
	srv, _ := newTest(t, func(c *Config) {
		c.Auth = Auth{Client: client, ClientCAs: func() *x509.CertPool { return pool }}
	})
	for _, tc := range []struct {
		name   string
		groups []string
		ca     *x509.Certificate
		key    *ecdsa.PrivateKey
		code   int
	}{
		{"bob", nil, ca, caKey, 403}, {"root", []string{"masters"}, ca, caKey, 200}, {"root", []string{"masters"}, other, otherKey, 401},
	} {
		cert, key := issue(t, tc.name, tc.groups, tc.ca, tc.key)
		tr := srv.Client().Transport.(*http.Transport).Clone()
		tr.TLSClientConfig.Certificates = []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: key}}
		if code, body := get(t, &http.Client{Transport: tr}, "GET", srv.URL+"/metrics", ""); code != tc.code {
			t.Errorf("%s of %s: %d %s, want %d", tc.name, tc.ca.Subject.CommonName, code, body, tc.code)
		}
		tr.CloseIdleConnections()
	}
}

// TestStreamIsSpliced upgrades a connection through the server to the runtime's URL and back.
func TestStreamIsSpliced(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n%s\n", r.URL.Path)
		line, _ := buf.ReadString('\n')
		fmt.Fprint(conn, "echo "+line)
	}))
	defer backend.Close()
	srv, rt := newTest(t, nil)
	rt.url = backend.URL
	for path, want := range map[string]string{
		"/exec/ns/web/app?command=sh&command=-c&input=1&output=1&error=1&tty=1": "/exec/token",
		"/portForward/ns/web?port=80,81":                                        "/portforward/s1/[80 81]",
	} {
		conn, err := tls.Dial("tcp", srv.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n", path)
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		if err != nil || resp.StatusCode != 101 {
			t.Fatalf("%s: %v %v", path, resp, err)
		}
		line, _ := r.ReadString('\n')
		fmt.Fprint(conn, "hello\n")
		echo, _ := r.ReadString('\n')
		if line != want+"\n" || echo != "echo hello\n" {
			t.Errorf("%s: %q, %q", path, line, echo)
		}
		conn.Close()
	}
	if rt.exec.ContainerId != "c1" || !slices.Equal(rt.exec.Cmd, []string{"sh", "-c"}) || !rt.exec.Tty || rt.exec.Stderr || !rt.exec.Stdin {
		t.Errorf("exec request %+v", rt.exec)
	}
}

func TestLogs(t *testing.T) {
	srv, rt := newTest(t, nil)
	rt.log = filepath.Join(t.TempDir(), "0.log")
	lines := "2026-01-01T00:00:00.000000001Z stdout F one\n2026-01-01T00:00:01Z stderr F two\n2026-01-01T00:00:02Z stdout P thr\n2026-01-01T00:00:02Z stdout F ee\n"
	if err := os.WriteFile(rt.log, []byte(lines), 0o600); err != nil {
		t.Fatal(err)
	}
	for query, want := range map[string]string{
		"":                                "one\ntwo\nthree\n",
		"?tailLines=2":                    "three\n", // upstream's reader counts parts of long lines, too
		"?limitBytes=5":                   "one\nt",
		"?sinceTime=2026-01-01T00:00:01Z": "two\nthree\n",
		"?timestamps=true&tailLines=1":    "2026-01-01T00:00:02.000000000Z ee\n",
		"?stream=Stderr":                  "two\n",
		"?tailLines=0":                    "",
	} {
		if code, body := get(t, srv.Client(), "GET", srv.URL+"/containerLogs/ns/web/app"+query, ""); code != 200 || body != want {
			t.Errorf("%s: %d %q, want %q", query, code, body, want)
		}
	}
}

// TestDebugging: what reaches into the node and the process can be turned off, with upstream's words.
func TestDebugging(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "syslog"), []byte("all is well"), 0o600); err != nil {
		t.Fatal(err)
	}
	var level uint32
	on, _ := newTest(t, func(c *Config) {
		c.Debug = Debug{LogDir: dir, LogQuery: true, Verbosity: func(l uint32) { level = l }}
	})
	off, _ := newTest(t, func(c *Config) { c.Debug = Debug{Off: true, LogDir: dir} })
	quiet, _ := newTest(t, func(c *Config) { c.Debug = Debug{NoProfiling: true} })
	for _, tc := range []struct {
		srv                *httptest.Server
		method, path, send string
		code               int
		body               string
	}{
		{on, "GET", "/logs/syslog", "", 200, "all is well"},
		{on, "GET", "/logs/?query=/syslog", "", 200, "all is well"},
		{on, "GET", "/logs/?query=", "", 400, "may not be empty"},
		{on, "POST", "/logs/", "", 405, "405: Method Not Allowed"},
		{on, "GET", "/debug/flags/v", "", 406, "unsupported http method\n"},
		{on, "PUT", "/debug/flags/v", "", 400, `strconv.ParseUint: parsing "": invalid syntax`},
		{on, "PUT", "/debug/flags/v", "4", 200, "successfully set klog.logging.verbosity to 4\n"},
		{off, "GET", "/logs/syslog", "", 405, "Debug endpoints are disabled."},
		{off, "POST", "/exec/ns/web/app?command=ls", "", 405, "Debug endpoints are disabled."},
		{off, "GET", "/containerLogs/ns/web/app", "", 405, "Debug endpoints are disabled."},
		{off, "GET", "/configz", "", 404, ""},
		{off, "GET", "/pods", "", 200, `"name":"web"`},
		{quiet, "GET", "/debug/pprof/heap", "", 405, "profiling endpoint is disabled."},
	} {
		req, err := http.NewRequest(tc.method, tc.srv.URL+tc.path, strings.NewReader(tc.send))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tc.srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.code || !strings.Contains(string(body), tc.body) {
			t.Errorf("%s %s: %d %q, want %d %q", tc.method, tc.path, resp.StatusCode, body, tc.code, tc.body)
		}
	}
	if level != 4 {
		t.Errorf("level %d", level)
	}
}

// TestReadOnlyPort: it shows pods and pages to anybody, and nothing that reaches further.
func TestReadOnlyPort(t *testing.T) {
	s, err := New(Config{NodeName: "n", Pods: func() []*v1.Pod { return nil }, Runtime: &cri{}, Auth: Auth{AlwaysAllow: true},
		Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(openPort{s}.handler())
	defer srv.Close()
	for path, want := range map[string]int{"/pods": 200, "/healthz": 200, "/exec/a/b/c": 404, "/containerLogs/a/b/c": 404, "/debug/pprof/": 404, "/configz": 404} {
		if code, _ := get(t, srv.Client(), "GET", srv.URL+path, ""); code != want {
			t.Errorf("%s: %d, want %d", path, code, want)
		}
	}
}

func TestLogsFollowAcrossRotation(t *testing.T) {
	srv, rt := newTest(t, nil)
	rt.log = filepath.Join(t.TempDir(), "0.log")
	add := func(text string) {
		f, err := os.OpenFile(rt.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(f, "2026-01-01T00:00:00Z stdout F %s\n", text)
		f.Close()
	}
	add("one")
	resp, err := srv.Client().Get(srv.URL + "/containerLogs/ns/web/app?follow=true")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r := bufio.NewReader(resp.Body)
	expect := func(want string) {
		t.Helper()
		if line, err := r.ReadString('\n'); line != want+"\n" {
			t.Fatalf("got %q %v, want %q", line, err, want)
		}
	}
	expect("one")
	add("two")
	expect("two")
	if err := os.Rename(rt.log, rt.log+".1"); err != nil {
		t.Fatal(err)
	}
	add("three")
	expect("three")
	rt.mu.Lock()
	rt.state = runtimeapi.ContainerState_CONTAINER_EXITED
	rt.mu.Unlock()
	if rest, err := io.ReadAll(r); err != nil || len(rest) != 0 {
		t.Errorf("end: %q %v", rest, err)
	}
}

func TestRunAndHealth(t *testing.T) {
	cert, err := SelfSigned("node")
	if err != nil {
		t.Fatal(err)
	}
	free := func() string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		return l.Addr().String()
	}
	var sick error
	cfg := Config{Certificate: cert, NodeName: "n1", Pods: func() []*v1.Pod { return nil }, Runtime: &cri{}, Auth: Auth{AlwaysAllow: true},
		Address: free(), Health: free(), Healthy: func() error { return sick }}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	var resp *http.Response
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if resp, err = http.Get("http://" + cfg.Health + "/healthz"); err == nil || time.Now().After(deadline) {
			break
		}
	}
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("%v %v", resp, err)
	}
	resp.Body.Close()
	sick = errors.New("PLEG is not healthy")
	if code, body := get(t, http.DefaultClient, "GET", "http://"+cfg.Health+"/healthz", ""); code != 500 || !strings.Contains(body, "PLEG") {
		t.Errorf("%d %s", code, body)
	}
	if err := s.Run(ctx); err == nil || !strings.Contains(err.Error(), "port") {
		t.Errorf("busy port: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSubresources(t *testing.T) {
	for path, want := range map[string]string{
		"/pods": "pods proxy", "/podsx": "proxy", "/runningpods/": "pods proxy", "/stats/summary": "stats", "/metrics/cadvisor": "metrics",
		"/logs/syslog": "log", "/exec/ns/p/c": "proxy", "/containerLogs/ns/p/c": "proxy", "/": "proxy",
	} {
		if got := strings.Join(subresources(path), " "); got != want {
			t.Errorf("%s: %s, want %s", path, got, want)
		}
	}
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	cert, err := SelfSigned("node")
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(Config{Certificate: cert, NodeName: "n", Pods: func() []*v1.Pod { return nil }, Runtime: &cri{}})
	if err == nil || !strings.Contains(err.Error(), "authorization.mode") {
		t.Errorf("got %v", err)
	}
}

func TestFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	if _, err := CAFile(filepath.Join(dir, "none")); err == nil {
		t.Error("a missing file was accepted")
	}
	if _, err := Files(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err == nil {
		t.Error("a missing certificate was accepted")
	}
	path := filepath.Join(dir, "v")
	if err := os.WriteFile(path, []byte("1"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := &changing[string]{paths: []string{path}, read: func() (string, error) {
		data, err := os.ReadFile(path)
		if string(data) == "bad" {
			return "", errors.New("bad")
		}
		return string(data), err
	}}
	for _, step := range []struct{ write, want string }{{"1", "1"}, {"two", "two"}, {"bad", "two"}, {"four", "four"}} {
		if err := os.WriteFile(path, []byte(step.write), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := c.get(); got != step.want || err != nil {
			t.Errorf("%q: %q %v", step.write, got, err)
		}
	}
}
