package server

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// CheckpointContainer writes an archive, for container c1 only.
func (c *cri) CheckpointContainer(_ context.Context, r *runtimeapi.CheckpointContainerRequest, _ ...grpc.CallOption) (*runtimeapi.CheckpointContainerResponse, error) {
	if c.url == "cannot" {
		return nil, status.Error(codes.Unimplemented, "no")
	}
	if r.ContainerId != "c1" || r.Timeout != 7 {
		return nil, status.Error(codes.InvalidArgument, r.String())
	}
	return &runtimeapi.CheckpointContainerResponse{}, os.WriteFile(r.Location, []byte("state"), 0o600)
}

func TestCheckpoint(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "checkpoints")
	srv, rt := newTest(t, func(c *Config) { c.Debug.CheckpointDir = dir })
	code, body := get(t, srv.Client(), "POST", srv.URL+"/checkpoint/ns/web/app?timeout=7", "")
	var answer struct{ Items []string }
	if err := json.Unmarshal([]byte(body), &answer); err != nil || code != 200 || len(answer.Items) != 1 {
		t.Fatalf("%d %s %v", code, body, err)
	}
	if name := answer.Items[0]; !strings.HasPrefix(name, filepath.Join(dir, "checkpoint-web_ns-app-")) || !strings.HasSuffix(name, ".tar") {
		t.Error(name)
	}
	if raw, err := os.ReadFile(answer.Items[0]); err != nil || string(raw) != "state" {
		t.Error(string(raw), err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
	for path, want := range map[string]int{"/checkpoint/ns/web/none": 404, "/checkpoint/ns/none/app": 404, "/checkpoint/ns/web/app?timeout=x": 404, "/checkpoint/ns/web/slow?timeout=7": 500} {
		if code, body := get(t, srv.Client(), "POST", srv.URL+path, ""); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	if code, _ := get(t, srv.Client(), "GET", srv.URL+"/checkpoint/ns/web/app", ""); code != 405 && code != 404 {
		t.Errorf("GET: %d", code)
	}
	rt.url = "cannot"
	if code, _ := get(t, srv.Client(), "POST", srv.URL+"/checkpoint/ns/web/app?timeout=7", ""); code != 404 {
		t.Errorf("a runtime that cannot: %d", code)
	}
}
