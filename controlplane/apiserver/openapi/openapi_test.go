package openapi

import (
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"os"
)

// TestCurrent generates the documents again and compares them with what is checked in.
func TestCurrent(t *testing.T) {
	out := filepath.Join(t.TempDir(), "data")
	if msg, err := exec.Command("go", "run", "./generate", "-out", out).CombinedOutput(); err != nil {
		t.Fatalf("generate: %v: %s", err, msg)
	}
	if diff := cmp.Diff(hashes(t, out), hashes(t, "data")); diff != "" {
		t.Errorf("run go generate ./controlplane/apiserver/openapi (-generated +checked in):\n%s", diff)
	}
}

func hashes(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		sums[e.Name()] = hash(b)
	}
	return sums
}

func TestNegotiation(t *testing.T) {
	for _, tc := range []struct{ accept, suffix string }{
		{"", ".json.gz"},
		{"application/json", ".json.gz"},
		{"application/com.github.proto-openapi.spec.v3@v1.0+protobuf", ".pb.gz"},
		{"application/com.github.proto-openapi.spec.v3.v1.0+protobuf, application/json", ".pb.gz"},
		{"text/html, */*;q=0.8", ".json.gz"},
	} {
		if suffix, _ := negotiate(tc.accept, "v3"); suffix != tc.suffix {
			t.Errorf("Accept %q: %s", tc.accept, suffix)
		}
	}
}

func TestServe(t *testing.T) {
	mux := http.NewServeMux()
	New(nil).Install(serveMux{mux})
	for path, code := range map[string]int{
		"/openapi/v2": 200, "/openapi/v3": 200, "/openapi/v3/apis/apps/v1": 200, "/openapi/v3/version": 200,
		"/openapi/v3/.well-known/openid-configuration": 200, "/openapi/v3/apis/nothing/v1": 404,
	} {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		if w.Code != code {
			t.Errorf("%s: %d", path, w.Code)
		}
	}
}

// serveMux lets the standard mux take prefixes.
type serveMux struct{ *http.ServeMux }

func (m serveMux) HandlePrefix(path string, h http.Handler) { m.ServeMux.Handle(path, h) }
