package monitor

import (
	"log/slog"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/runtimeservice"
)

func TestMove(t *testing.T) {
	dir := t.TempDir()
	first, second := filepath.Join(dir, "a.sock"), filepath.Join(dir, "b.sock")
	table := calls.New(slog.New(slog.DiscardHandler))
	ctx, end := table.Begin(t.Context(), calls.Request{Method: "/x/RunPodSandbox", About: []slog.Attr{slog.String("pod", "a/b")}})
	defer end(nil)
	_, done := runtimeservice.Step(ctx, "attach the network")
	defer done(nil)
	e := &Endpoint{Name: "test", Mode: 0o600, Log: slog.New(slog.DiscardHandler)}
	defer e.Close()
	for _, path := range []string{first, second, second} {
		if err := e.Move("unix://"+path, Debug(table)); err != nil {
			t.Fatal(err)
		}
		got, err := Calls(t.Context(), path)
		if err != nil || len(got) != 1 || got[0].Call != "RunPodSandbox" || got[0].Step != "attach the network" || got[0].About["pod"] != "a/b" {
			t.Errorf("%+v, %v", got, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
	}
	if _, err := Calls(t.Context(), first); err == nil {
		t.Error("the old socket still answers")
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if err := e.Move(taken.Addr().String(), Debug(table)); err == nil {
		t.Error("an address that is taken was taken")
	}
	if _, err := Calls(t.Context(), second); err != nil {
		t.Errorf("after a move that failed: %v", err)
	}
	if err := e.Move("", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := Calls(t.Context(), second); err == nil {
		t.Error("it answers though it is off")
	}
}

func TestPprof(t *testing.T) {
	path := filepath.Join(t.TempDir(), "debug.sock")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	e := &Endpoint{Name: "test", Mode: 0o600, Log: slog.New(slog.DiscardHandler)}
	defer e.Close()
	handler := Debug(calls.New(slog.New(slog.DiscardHandler)))
	if err := e.Move("unix://"+path, handler); err == nil {
		t.Error("an ordinary file was replaced")
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, httptest.NewRequest("GET", "/debug/pprof/goroutine?debug=1", nil))
	if !strings.Contains(w.Body.String(), "goroutine profile:") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
