package engine

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	ggcr "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// server is a registry in this process, in front of which a test can put faults.
type server struct {
	*httptest.Server
	addr string
	mu   sync.Mutex
	// before handles a request instead of the registry when it returns true.
	before func(w http.ResponseWriter, r *http.Request) bool
	gets   map[string]int // GET requests of blobs
}

func serve(t testing.TB, secure bool) *server {
	t.Helper()
	s := &server{gets: map[string]int{}}
	inner := ggcr.New(ggcr.Logger(log.New(io.Discard, "", 0)), ggcr.WithReferrersSupport(true))
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			s.gets[filepath.Base(r.URL.Path)]++
		}
		before := s.before
		s.mu.Unlock()
		if before == nil || !before(w, r) {
			inner.ServeHTTP(w, r)
		}
	})
	s.Server = httptest.NewUnstartedServer(handler)
	s.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if secure {
		s.StartTLS()
	} else {
		s.Start()
	}
	t.Cleanup(s.Close)
	s.addr = s.Listener.Addr().String()
	return s
}

func (s *server) fault(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = f
}

func (s *server) do(t testing.TB, method, path, mediaType string, body []byte) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", mediaType)
	resp, err := s.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode > 299 {
		t.Fatalf("%s %s: %s", method, path, resp.Status)
	}
}

// push puts an image into the registry under repo:tag.
func (s *server) push(t testing.TB, repo, tag string, img imagetest.Image) {
	t.Helper()
	for d, b := range img.Blobs {
		if d != img.Manifest.Digest {
			s.do(t, http.MethodPost, "/v2/"+repo+"/blobs/uploads/?digest="+d.String(), "application/octet-stream", b)
		}
	}
	s.do(t, http.MethodPut, "/v2/"+repo+"/manifests/"+tag, img.Manifest.MediaType, img.Blobs[img.Manifest.Digest])
}

// pushIndex puts an index of images, with their platforms, under repo:tag and returns its digest.
func (s *server) pushIndex(t testing.TB, repo, tag string, images map[string]imagetest.Image) digest.Digest {
	t.Helper()
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for arch, img := range images {
		s.push(t, repo, img.Manifest.Digest.String(), img)
		m := img.Manifest
		m.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		index.Manifests = append(index.Manifests, m)
	}
	b, err := json.Marshal(index)
	if err != nil {
		t.Fatal(err)
	}
	s.do(t, http.MethodPut, "/v2/"+repo+"/manifests/"+tag, index.MediaType, b)
	return digest.FromBytes(b)
}

func small(t testing.TB, s imagetest.Spec) imagetest.Image {
	t.Helper()
	if s.Layers == nil {
		s.Layers = [][]imagetest.File{{{Name: "a", Body: "a"}}, {{Name: "b", Body: "b"}}, {{Name: "c/"}, {Name: "c/d", Body: "d"}}}
	}
	return build(t, s)
}

func pull(t testing.TB, e *Engine, ref string) imageservice.Image {
	t.Helper()
	img, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: ref})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// leftovers lists what a store holds below its directories of content.
func leftovers(t *testing.T, root string) []string {
	t.Helper()
	var left []string
	for _, pattern := range []string{"blobs/*/*", "ingest/*", "l/*", "images/*"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}

func TestPull(t *testing.T) {
	s := serve(t, false)
	for name, spec := range map[string]imagetest.Spec{
		"oci gzip": {}, "oci zstd": {Compression: "zstd"}, "oci plain": {Compression: "none"}, "docker": {Docker: true},
		"no layers": {Layers: [][]imagetest.File{}},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, Config{})
			img := small(t, spec)
			repo := "test/" + strings.ReplaceAll(name, " ", "-")
			s.push(t, repo, "v1", img)
			got := pull(t, e, s.addr+"/"+repo+":v1")
			if got.ID != img.ID.String() || got.RepoTags[0] != s.addr+"/"+repo+":v1" || got.RepoDigests[0] != s.addr+"/"+repo+"@"+img.Manifest.Digest.String() {
				t.Errorf("got %+v", got)
			}
			byDigest := pull(t, e, s.addr+"/"+repo+":ignored@"+img.Manifest.Digest.String())
			if byDigest.ID != got.ID || len(byDigest.RepoTags) != 1 || len(byDigest.RepoDigests) != 1 {
				t.Errorf("by digest: %+v", byDigest)
			}
		})
	}
}

func TestPullByDigestOnly(t *testing.T) {
	s, e := serve(t, false), open(t, Config{})
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "v1", img)
	got := pull(t, e, s.addr+"/x@"+img.Manifest.Digest.String())
	if len(got.RepoTags) != 0 || len(got.RepoDigests) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestPullIndex(t *testing.T) {
	s := serve(t, false)
	other := small(t, imagetest.Spec{Platform: ocispec.Platform{OS: "linux", Architecture: "riscv64"}})
	spec := ocispec.Platform{OS: "linux", Architecture: "amd64"}
	ours := small(t, imagetest.Spec{Platform: spec})
	index := s.pushIndex(t, "multi", "v1", map[string]imagetest.Image{"amd64": ours, "riscv64": other})
	e := open(t, Config{Platform: &spec})
	got := pull(t, e, s.addr+"/multi:v1")
	if got.ID != ours.ID.String() || got.RepoDigests[0] != s.addr+"/multi@"+index.String() {
		t.Errorf("got %+v", got)
	}
	alien := open(t, Config{Platform: &ocispec.Platform{OS: "linux", Architecture: "s390x"}})
	_, err := alien.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/multi:v1"})
	if !errors.Is(err, imageservice.ErrWrongPlatform) || !strings.Contains(err.Error(), "linux/s390x") || !strings.Contains(err.Error(), "linux/riscv64") {
		t.Errorf("got %v", err)
	}
	_, err = alien.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/multi@" + ours.Manifest.Digest.String()})
	if !errors.Is(err, imageservice.ErrWrongPlatform) {
		t.Errorf("got %v", err)
	}
	if left := leftovers(t, alien.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestPullMovesTag(t *testing.T) {
	s, e := serve(t, false), open(t, Config{})
	old, img := small(t, imagetest.Spec{}), small(t, imagetest.Spec{Layers: [][]imagetest.File{{{Name: "new", Body: "new"}}}})
	s.push(t, "x", "latest", old)
	first := pull(t, e, s.addr+"/x")
	s.push(t, "x", "latest", img)
	second := pull(t, e, s.addr+"/x")
	if first.ID == second.ID {
		t.Fatal("the second pull brought the first image")
	}
	again, err := e.Get(t.Context(), first.ID)
	if err != nil || len(again.RepoTags) != 0 || len(again.RepoDigests) != 1 {
		t.Errorf("the first image is %+v, %v", again, err)
	}
}

func TestPullErrors(t *testing.T) {
	s := serve(t, false)
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "v1", img)
	layer := img.Layers[1].Digest.String()
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if code == http.StatusUnauthorized {
				w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
			}
			w.WriteHeader(code)
			return true
		}
	}
	for name, tc := range map[string]struct {
		ref   string
		fault func(w http.ResponseWriter, r *http.Request) bool
		want  error
		text  string
	}{
		"no such tag":        {ref: "x:v2", want: imageservice.ErrNotFound, text: s.addr + "/x:v2"},
		"no such repository": {ref: "y:v1", want: imageservice.ErrNotFound, text: s.addr},
		"denied":             {ref: "x:v1", fault: status(403), want: imageservice.ErrUnauthorized},
		"login needed":       {ref: "x:v1", fault: status(401), want: imageservice.ErrUnauthorized},
		"broken registry":    {ref: "x:v1", fault: status(500), want: imageservice.ErrUnavailable},
		"layer gone":         {ref: "x:v1", want: imageservice.ErrNotFound, fault: onBlob(layer, status(404))},
		"corrupt layer": {ref: "x:v1", want: imageservice.ErrCorrupt, text: layer, fault: onBlob(layer, func(w http.ResponseWriter, r *http.Request) bool {
			b := bytes.Clone(img.Blobs[img.Layers[1].Digest])
			b[len(b)/2] ^= 1
			w.Write(b)
			return true
		})},
		"endless layer": {ref: "x:v1", want: imageservice.ErrCorrupt, text: layer, fault: onBlob(layer, func(w http.ResponseWriter, r *http.Request) bool {
			for {
				if _, err := w.Write(make([]byte, 4096)); err != nil {
					return true
				}
			}
		})},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, Config{})
			s.fault(tc.fault)
			_, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/" + tc.ref})
			s.fault(nil)
			if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("got %v, want %v with %q", err, tc.want, tc.text)
			}
			if left := leftovers(t, e.cfg.Root); len(left) != 0 {
				t.Errorf("left %v", left)
			}
			if tc.ref == "x:v1" {
				pull(t, e, s.addr+"/x:v1")
			}
		})
	}
	e := open(t, Config{})
	if _, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: "127.0.0.1:1/x"}); !errors.Is(err, imageservice.ErrUnavailable) {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: "%"}); !errors.Is(err, imageservice.ErrInvalidReference) {
		t.Errorf("no reference: %v", err)
	}
	if m := e.Metrics(); m.Pulls != 0 || m.PullFailures["unavailable"] != 1 || m.PullFailures["invalid_reference"] != 1 {
		t.Errorf("counted %+v", m)
	}
}

// TestPullPastCorruptMirror: a mirror that sends something else, or more than it should, is passed over.
func TestPullPastCorruptMirror(t *testing.T) {
	up := serve(t, false)
	img := small(t, imagetest.Spec{})
	up.push(t, "x", "v1", img)
	for name, send := range map[string][]byte{"rubbish": bytes.Repeat([]byte("x"), int(img.Layers[1].Size)), "too much": make([]byte, 1<<20)} {
		mirror := serve(t, false)
		mirror.push(t, "x", "v1", img)
		mirror.fault(onBlob(img.Layers[1].Digest.String(), func(w http.ResponseWriter, _ *http.Request) bool {
			w.Write(send)
			return true
		}))
		certs := t.TempDir()
		if err := os.Mkdir(filepath.Join(certs, "r.test"), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(certs, "r.test", "hosts.toml"), fmt.Sprintf("server = %q\n[host.%q]\n", up.URL, mirror.URL))
		e := open(t, Config{CertsDirs: []string{certs}})
		if got := pull(t, e, "r.test/x:v1"); got.ID != img.ID.String() {
			t.Errorf("%s: got %+v", name, got)
		}
		if n := mirror.gets[img.Layers[1].Digest.String()]; n != 1 {
			t.Errorf("%s: the mirror was asked %d times", name, n)
		}
	}
}

func onBlob(digest string, f func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return strings.HasSuffix(r.URL.Path, "/blobs/"+digest) && f(w, r)
	}
}

func TestPullStalls(t *testing.T) {
	s := serve(t, false)
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "v1", img)
	s.fault(onBlob(img.Layers[0].Digest.String(), func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(img.Layers[0].Size))
		w.Write([]byte{0x1f})
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}))
	e := open(t, Config{StallTimeout: 50 * time.Millisecond})
	_, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/x:v1"})
	if !errors.Is(err, imageservice.ErrPullStalled) {
		t.Errorf("got %v", err)
	}
	if left := leftovers(t, e.cfg.Root); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

func TestPullResumes(t *testing.T) {
	s := serve(t, false)
	img := small(t, imagetest.Spec{Compression: "none", Layers: [][]imagetest.File{{{Name: "big", Body: strings.Repeat("0123456789abcdef", 1<<16)}}}})
	s.push(t, "x", "v1", img)
	var cut atomic.Int32
	var ranges sync.Map
	s.fault(onBlob(img.Layers[0].Digest.String(), func(w http.ResponseWriter, r *http.Request) bool {
		ranges.Store(r.Header.Get("Range"), true)
		if cut.Add(1) > 2 {
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(img.Blobs[img.Layers[0].Digest]))
			return true
		}
		w.Header().Set("Content-Length", fmt.Sprint(img.Layers[0].Size))
		w.Write(img.Blobs[img.Layers[0].Digest][:300_000])
		panic(http.ErrAbortHandler)
	}))
	e := open(t, Config{})
	pull(t, e, s.addr+"/x:v1")
	resumed := false
	ranges.Range(func(k, _ any) bool {
		resumed = resumed || strings.HasPrefix(k.(string), "bytes=") && k != "bytes=0-"
		return true
	})
	if !resumed {
		t.Error("the download began anew each time")
	}
}

func TestConcurrentPullsShare(t *testing.T) {
	s, e := serve(t, false), open(t, Config{})
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "v1", img)
	s.push(t, "y", "v1", img)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			stages := map[string]bool{}
			var mu sync.Mutex
			_, err := e.Pull(t.Context(), imageservice.PullRequest{
				Reference: s.addr + "/" + []string{"x", "y"}[i%2] + ":v1",
				Progress:  func(p imageservice.Progress) { mu.Lock(); stages[p.Stage] = true; mu.Unlock() },
			})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if !stages["resolving"] || !stages["done"] {
				t.Errorf("progress reported %v", stages)
			}
		})
	}
	group.Wait()
	m := e.Metrics()
	if m.Pulls != 8 || m.PullSeconds.Count != 8 || m.BlobsFetched != 5 || m.BlobsShared != 8*5-5 || m.LayersUnpacked != 3 || m.LayersShared != 7*3 || m.Images != 1 || m.PullsInFlight != 0 || m.BlobsInFlight != 0 {
		t.Errorf("counted %+v", m)
	}
	var size int64
	for _, b := range img.Blobs {
		size += int64(len(b))
	}
	if m.BytesFetched != size {
		t.Errorf("%d bytes are counted, the image has %d", m.BytesFetched, size)
	}
	for blob, n := range s.gets {
		if n > 1 {
			t.Errorf("blob %s was fetched %d times", blob, n)
		}
	}
	if all, _ := e.List(t.Context()); len(all) != 1 || len(all[0].RepoTags) != 2 {
		t.Errorf("got %+v", all)
	}
}

func TestPullTLS(t *testing.T) {
	s := serve(t, true)
	_, port, _ := strings.Cut(s.addr, ":")
	name := "registry.test:" + port
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "v1", img)
	certs := t.TempDir()
	e := open(t, Config{CertsDirs: []string{filepath.Join(certs, "absent"), certs}})
	dir := filepath.Join(certs, name)
	write := func(name, body string) {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	attempt := func() error {
		_, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: name + "/x:v1"})
		return err
	}
	// The file is read again for each pull.
	write("hosts.toml", "server = \"https://"+s.addr+"\"\n")
	if err := attempt(); !errors.Is(err, imageservice.ErrUnavailable) || !strings.Contains(err.Error(), "certs.d/"+name+"/hosts.toml") {
		t.Errorf("without CA: %v", err)
	}
	write("hosts.toml", "server = \"https://"+s.addr+"\"\n\nca = 5\n")
	if err := attempt(); err == nil || !strings.Contains(err.Error(), filepath.Join(dir, "hosts.toml")) {
		t.Errorf("broken file: %v", err)
	}
	write("hosts.toml", "server = \"https://"+s.addr+"\"\n\n[host\n")
	if err := attempt(); err == nil || !strings.Contains(err.Error(), "line 3") {
		t.Errorf("broken file: %v", err)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	write("ca.crt", string(ca))
	write("hosts.toml", "server = \"https://"+s.addr+"\"\nca = \"ca.crt\"\n")
	if err := attempt(); err != nil {
		t.Errorf("with CA: %v", err)
	}
}

func TestPullThroughDefaultMirror(t *testing.T) {
	s := serve(t, false)
	img := small(t, imagetest.Spec{})
	s.push(t, "library/x", "v1", img)
	certs := t.TempDir()
	if err := os.MkdirAll(filepath.Join(certs, "_default"), 0o755); err != nil {
		t.Fatal(err)
	}
	toml := "[host.\"http://" + s.addr + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
	if err := os.WriteFile(filepath.Join(certs, "_default", "hosts.toml"), []byte(toml), 0o644); err != nil {
		t.Fatal(err)
	}
	e := open(t, Config{CertsDirs: []string{certs}})
	if got := pull(t, e, "x:v1"); got.RepoTags[0] != "docker.io/library/x:v1" {
		t.Errorf("got %+v", got)
	}
}

func TestPullWithCredentials(t *testing.T) {
	s := serve(t, false)
	img := small(t, imagetest.Spec{})
	s.push(t, "x", "v1", img)
	s.fault(func(w http.ResponseWriter, r *http.Request) bool {
		user, password, _ := r.BasicAuth()
		if user == "me" && password == "secret" || r.Header.Get("Authorization") == "Bearer token" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="r"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	config := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(config, []byte(`{"auths":{"`+s.addr+`":{"auth":"bWU6c2VjcmV0"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		auth   imageservice.Auth
		config string
		ok     bool
	}{
		"none":           {},
		"user":           {auth: imageservice.Auth{Username: "me", Password: "secret"}, ok: true},
		"wrong password": {auth: imageservice.Auth{Username: "me", Password: "guess"}},
		"base64":         {auth: imageservice.Auth{Auth: "bWU6c2VjcmV0"}, ok: true},
		"bad base64":     {auth: imageservice.Auth{Auth: "%%"}},
		"registry token": {auth: imageservice.Auth{RegistryToken: "token"}, ok: true},
		"for this host":  {auth: imageservice.Auth{Username: "me", Password: "secret", ServerAddress: "http://" + s.addr}, ok: true},
		"for another":    {auth: imageservice.Auth{Username: "me", Password: "secret", ServerAddress: "https://other.test"}},
		"docker config":  {config: config, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			e := open(t, Config{DockerConfig: tc.config})
			_, err := e.Pull(t.Context(), imageservice.PullRequest{Reference: s.addr + "/x:v1", Auth: tc.auth})
			if tc.ok && err != nil || !tc.ok && !errors.Is(err, imageservice.ErrUnauthorized) {
				t.Errorf("got %v", err)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("the error tells the password: %v", err)
			}
		})
	}
}

func TestClassify(t *testing.T) {
	err := classify(&os.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC})
	if !errors.Is(err, imageservice.ErrNoSpace) || !errors.Is(err, syscall.ENOSPC) {
		t.Error(err)
	}
}
