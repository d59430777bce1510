package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
)

var (
	doc      = []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{},"layers":[]}`)
	docType  = ocispec.MediaTypeImageManifest
	blob     = bytes.Repeat([]byte("0123456789abcdef"), 8<<10)
	blobDesc = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
)

// registry serves one manifest and one blob at any name, and notes what it is asked.
type registry struct {
	*httptest.Server
	host   string
	mu     sync.Mutex
	asked  []*http.Request
	before func(http.ResponseWriter, *http.Request) bool // handles the request when it returns true
}

func serve(t *testing.T, secure bool, before func(http.ResponseWriter, *http.Request) bool) *registry {
	t.Helper()
	r := &registry{before: before}
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(r.handle))
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		r.StartTLS()
	} else {
		r.Start()
	}
	t.Cleanup(r.Close)
	r.host = r.Listener.Addr().String()
	return r
}

func (r *registry) handle(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	r.asked = append(r.asked, req)
	r.mu.Unlock()
	switch {
	case r.before != nil && r.before(w, req):
	case strings.Contains(req.URL.Path, "/manifests/"):
		w.Header().Set("Content-Type", docType)
		w.Header().Set("Docker-Content-Digest", digest.FromBytes(doc).String())
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(doc))
	default:
		http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(blob))
	}
}

func (r *registry) requests() []*http.Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*http.Request(nil), r.asked...)
}

func status(code int, headers ...string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		for i := 0; i+1 < len(headers); i += 2 {
			w.Header().Set(headers[i], headers[i+1])
		}
		w.WriteHeader(code)
		return true
	}
}

// configure writes hosts.toml for r.test and files beside it.
func configure(t *testing.T, toml string, files map[string][]byte) Config {
	t.Helper()
	certs := t.TempDir()
	dir := filepath.Join(certs, "r.test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if files == nil {
		files = map[string][]byte{}
	}
	files["hosts.toml"] = []byte(toml)
	for name, body := range files {
		if err := os.WriteFile(filepath.Join(dir, name), body, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Config{CertsDirs: []string{certs}, StallTimeout: time.Minute, Patience: 5 * time.Second}
}

const ref = "r.test/team/app:v1"

func session(t *testing.T, cfg Config, auth imageservice.Auth) *Session {
	t.Helper()
	s, err := Open(cfg, ref, auth)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// get resolves and fetches.
func get(t *testing.T, s *Session) (string, error) {
	t.Helper()
	if _, err := s.Resolve(t.Context()); err != nil {
		return "", err
	}
	var out bytes.Buffer
	err := s.Fetch(t.Context(), blobDesc, &out, nil)
	return out.String(), err
}

func TestMirrorsInOrder(t *testing.T) {
	gone, busy := serve(t, false, status(404)), serve(t, false, status(503))
	pullOnly, up := serve(t, false, nil), serve(t, false, nil)
	var notices []string
	cfg := configure(t, fmt.Sprintf("server = %q\n[host.%q]\n[host.%q]\n[host.%q]\ncapabilities = [\"pull\"]\n", up.URL, gone.URL, busy.URL, pullOnly.URL), nil)
	cfg.Notice = func(s string) { notices = append(notices, s) }
	got, err := get(t, session(t, cfg, imageservice.Auth{}))
	if err != nil || got != string(blob) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	// The tag is not asked of a host that may not resolve; the blob is not asked again of the one that could not serve.
	for name, tc := range map[string]struct {
		r    *registry
		want int
	}{"404": {gone, 2}, "503": {busy, 1}, "pull only": {pullOnly, 1}, "server": {up, 1}} {
		if n := len(tc.r.requests()); n != tc.want {
			t.Errorf("%s: %d requests, want %d", name, n, tc.want)
		}
	}
	if q := pullOnly.requests()[0].URL.Query().Get("ns"); q != "r.test" {
		t.Errorf("the mirror is told ns=%q", q)
	}
	if len(notices) == 0 || !strings.Contains(notices[0], busy.URL) {
		t.Errorf("nobody is told that mirrors were passed over: %q", notices)
	}
}

// TestOnlyMirror: where server names a mirror nobody else is asked.
func TestOnlyMirror(t *testing.T) {
	mirror := serve(t, false, status(500))
	cfg := configure(t, fmt.Sprintf("server = %q\n", mirror.URL), nil)
	_, err := get(t, session(t, cfg, imageservice.Auth{}))
	if !errors.Is(err, imageservice.ErrUnavailable) || !strings.Contains(err.Error(), mirror.URL) {
		t.Errorf("got %v", err)
	}
	if n := len(mirror.requests()); n != 1+maxRetries {
		t.Errorf("asked %d times", n)
	}
}

func TestErrorTellsOfAllHosts(t *testing.T) {
	denied := serve(t, false, func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(403)
		w.Write([]byte(`{"errors":[{"code":"DENIED","message":"not for you"}]}`))
		return true
	})
	up := serve(t, false, status(404))
	_, err := get(t, session(t, configure(t, fmt.Sprintf("server = %q\n[host.%q]\n", up.URL, denied.URL), nil), imageservice.Auth{}))
	for _, want := range []string{denied.URL, "403", up.URL, "404", "mirror"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not tell %q: %v", want, err)
		}
	}
	if !errors.Is(err, imageservice.ErrNotFound) || errors.Is(err, imageservice.ErrUnauthorized) {
		t.Errorf("the registry itself decides, got %v", err)
	}
}

func TestRetryAfter(t *testing.T) {
	for name, tc := range map[string]struct {
		replies  []func(http.ResponseWriter, *http.Request) bool
		patience time.Duration
		ok       bool
		asked    int
	}{
		"asked to wait":      {[]func(http.ResponseWriter, *http.Request) bool{status(429, "Retry-After", "1")}, 5 * time.Second, true, 2},
		"asked for too long": {[]func(http.ResponseWriter, *http.Request) bool{status(429, "Retry-After", "3600")}, 5 * time.Second, false, 1},
		"a date long past":   {[]func(http.ResponseWriter, *http.Request) bool{status(503, "Retry-After", "Mon, 02 Jan 2006 15:04:05 GMT")}, 5 * time.Second, true, 2},
		"passing faults":     {[]func(http.ResponseWriter, *http.Request) bool{status(500), status(502)}, 5 * time.Second, true, 3},
		"no passing fault":   {[]func(http.ResponseWriter, *http.Request) bool{status(500), status(500), status(500)}, 5 * time.Second, false, 3},
		"no patience":        {[]func(http.ResponseWriter, *http.Request) bool{status(500)}, time.Nanosecond, false, 1},
		"not a fault":        {[]func(http.ResponseWriter, *http.Request) bool{status(400)}, 5 * time.Second, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			up := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
				i := int(n.Add(1)) - 1
				return i < len(tc.replies) && tc.replies[i](w, r)
			})
			cfg := configure(t, fmt.Sprintf("server = %q\n", up.URL), nil)
			cfg.Patience = tc.patience
			_, err := session(t, cfg, imageservice.Auth{}).Resolve(t.Context())
			if (err == nil) != tc.ok || int(n.Load()) != tc.asked {
				t.Errorf("got %v after %d requests, want %d", err, n.Load(), tc.asked)
			}
		})
	}
}

func TestRetryAfterHeader(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-3": 0, "soon": 0, "999999999999": (1 << 20) * time.Second, "Thu, 01 Jan 2026 00:00:09 GMT": 9 * time.Second,
	} {
		if got := retryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// TestNothingLeaks: neither a redirect nor a mirror sees what is meant for the registry.
func TestNothingLeaks(t *testing.T) {
	elsewhere := serve(t, false, nil)
	target, _ := url.Parse(elsewhere.URL)
	target.Host = "localhost:" + target.Port()
	mirror := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "" {
			return status(401, "WWW-Authenticate", `Basic realm="m"`)(w, r)
		}
		return false
	})
	up := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		switch {
		case user != "u" || password != "secret" || r.Header.Get("X-Key") != "k":
			return status(401, "WWW-Authenticate", `Basic realm="r"`)(w, r)
		case strings.Contains(r.URL.Path, "/blobs/"):
			http.Redirect(w, r, target.String()+"/data", http.StatusTemporaryRedirect)
			return true
		}
		return false
	})
	cfg := configure(t, fmt.Sprintf("server = %q\n[header]\nx-key = \"k\"\n[host.%q]\n", up.URL, mirror.URL), nil)
	got, err := get(t, session(t, cfg, imageservice.Auth{Username: "u", Password: "secret"}))
	if err != nil || got != string(blob) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if len(mirror.requests()) == 0 || len(elsewhere.requests()) == 0 {
		t.Fatal("the mirror or the redirect was not used")
	}
	for _, r := range append(mirror.requests(), elsewhere.requests()...) {
		for _, key := range []string{"Authorization", "X-Key", "Cookie"} {
			if v := r.Header.Get(key); v != "" {
				t.Errorf("%s at %s sees %s: %s", r.URL, r.Host, key, v)
			}
		}
	}
}

// TestTokenServer: the dance with a token server, and its refusal in the clear.
func TestTokenServer(t *testing.T) {
	tokens := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
		if err := r.ParseForm(); err != nil || r.Form.Get("password") != "secret" || !strings.Contains(r.Form.Get("scope"), "repository:team/app:pull") {
			return status(401)(w, r)
		}
		json.NewEncoder(w).Encode(map[string]string{"access_token": "t1"})
		return true
	})
	ask := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == "Bearer t1" {
			return false
		}
		return status(401, "WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s",scope="repository:team/app:pull"`, tokens.URL))(w, r)
	}
	plain, secure := serve(t, false, ask), serve(t, true, ask)
	auth := imageservice.Auth{Username: "u", Password: "secret"}
	if _, err := get(t, session(t, configure(t, fmt.Sprintf("server = %q\n", plain.URL), nil), auth)); err != nil {
		t.Errorf("plain registry: %v", err)
	}
	before := len(tokens.requests())
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw})
	_, err := get(t, session(t, configure(t, fmt.Sprintf("server = %q\nca = \"ca.crt\"\n", secure.URL), map[string][]byte{"ca.crt": ca}), auth))
	if !errors.Is(err, errPlainToken) || len(tokens.requests()) != before {
		t.Errorf("a secure registry sends the password to %s: %v", tokens.URL, err)
	}
}

func TestRefusedCredential(t *testing.T) {
	for name, auth := range map[string]imageservice.Auth{"password": {Username: "u", Password: "wrong"}, "token": {RegistryToken: "wrong"}, "none": {}} {
		up := serve(t, false, status(401, "WWW-Authenticate", `Basic realm="r"`))
		_, err := get(t, session(t, configure(t, fmt.Sprintf("server = %q\n", up.URL), nil), auth))
		if !errors.Is(err, imageservice.ErrUnauthorized) || len(up.requests()) > 3 || strings.Contains(err.Error(), "wrong\"") {
			t.Errorf("%s: %v after %d requests", name, err, len(up.requests()))
		}
	}
}

// TestResumesElsewhere: what one host began another may end.
func TestResumesElsewhere(t *testing.T) {
	cut := func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		if r.Header.Get("Range") != "" {
			return status(500)(w, r)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		w.Write(blob[:50_000])
		panic(http.ErrAbortHandler)
	}
	for name, deaf := range map[string]bool{"ranges": false, "no ranges": true} {
		first := serve(t, false, cut)
		up := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
			if deaf {
				r.Header.Del("Range")
			}
			return false
		})
		got, err := get(t, session(t, configure(t, fmt.Sprintf("server = %q\n[host.%q]\n", up.URL, first.URL), nil), imageservice.Auth{}))
		if err != nil || got != string(blob) {
			t.Errorf("%s: got %d bytes, %v", name, len(got), err)
		}
	}
}

func TestTrickleStalls(t *testing.T) {
	done := make(chan struct{})
	up := serve(t, false, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(blob)))
		for i := range blob {
			if _, err := w.Write(blob[i : i+1]); err != nil {
				break
			}
			w.(http.Flusher).Flush()
			select {
			case <-r.Context().Done():
				return true
			case <-done:
				return true
			case <-time.After(5 * time.Millisecond):
			}
		}
		return true
	})
	defer close(done)
	cfg := configure(t, fmt.Sprintf("server = %q\n", up.URL), nil)
	cfg.StallTimeout, cfg.StallBytes = 50*time.Millisecond, 4096
	if _, err := get(t, session(t, cfg, imageservice.Auth{})); !errors.Is(err, imageservice.ErrPullStalled) {
		t.Errorf("a trickle is taken for progress: %v", err)
	}
}

func TestExplain(t *testing.T) {
	up := serve(t, false, nil)
	cfg := configure(t, fmt.Sprintf("server = %q\nhue = 1\n\n[host.\"https://127.0.0.1:1\"]\nskip_verify = true\n[host.\"https://127.0.0.1:1\".header]\nx-key = \"hunter2\"\n[host.\"https://b.test\"]\nca = \"absent\"\n", up.URL), nil)
	cfg.DockerConfig = filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(cfg.DockerConfig, []byte(`{"auths":{"`+up.host+`/team":{"username":"u","password":"hunter2"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	x, err := Explain(t.Context(), cfg, ref, true)
	if err != nil || len(x.Hosts) != 3 || len(x.Warnings) != 1 {
		t.Fatalf("%+v, %v", x, err)
	}
	file := filepath.Join(cfg.CertsDirs[0], "r.test/hosts.toml")
	mirror, broken, server := x.Hosts[0], x.Hosts[1], x.Hosts[2]
	if mirror.From != file+":4" || mirror.TLS.Mode != "https, not verified" || mirror.Probe == nil || mirror.Probe.Error == "" || fmt.Sprint(mirror.Headers) != "[X-Key]" {
		t.Errorf("mirror: %+v", mirror)
	}
	if !strings.Contains(broken.Problem, "absent") || broken.Probe != nil {
		t.Errorf("broken: %+v", broken)
	}
	if server.Credential != "user u" || !strings.Contains(server.CredentialAt, cfg.DockerConfig) || server.Probe.Digest != digest.FromBytes(doc).String() {
		t.Errorf("server: %+v", server)
	}
	text, err := json.Marshal(x)
	if err != nil || bytes.Contains(text, []byte("hunter2")) {
		t.Errorf("a secret is told: %s, %v", text, err)
	}
	asked := len(up.requests())
	if _, err := Explain(context.Background(), cfg, ref, false); err != nil || len(up.requests()) != asked {
		t.Errorf("explaining asks: %v", err)
	}
}
