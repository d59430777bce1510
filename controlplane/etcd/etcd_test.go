package etcd

import (
	"context"
	"errors"
	"path/filepath"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// start runs a member and returns a function that stops it and waits.
func start(t *testing.T, dir string) (*Server, func()) {
	t.Helper()
	s, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("not ready")
	}
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return s, stop
}

func TestKeepsDataAndWatches(t *testing.T) {
	dir := t.TempDir()
	s, stop := start(t, dir)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	watch := s.Client().Watch(ctx, "/a", clientv3.WithCreatedNotify())
	if r := <-watch; !r.Created {
		t.Fatalf("watch: %+v", r)
	}
	if _, err := s.Client().Put(ctx, "/a", "1"); err != nil {
		t.Fatal(err)
	}
	if r := <-watch; len(r.Events) != 1 || string(r.Events[0].Kv.Value) != "1" {
		t.Fatalf("watch: %+v", r)
	}
	if err := s.Client().RequestProgress(ctx); err != nil {
		t.Fatal(err)
	}
	if err := s.Snapshot(ctx, filepath.Join(t.TempDir(), "snap.db")); err != nil {
		t.Fatal(err)
	}
	stop()

	s, _ = start(t, dir)
	got, err := s.Client().Client.Get(ctx, "/a")
	if err != nil || len(got.Kvs) != 1 || string(got.Kvs[0].Value) != "1" {
		t.Fatalf("after restart: %+v, %v", got, err)
	}
}

func TestRefusesABusyDirectory(t *testing.T) {
	dir := t.TempDir()
	_, stop := start(t, dir)
	if _, err := New(Config{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Fatalf("second member in one directory: %v", err)
	}
	stop()
	start(t, dir)
}

func TestConfigIsRefused(t *testing.T) {
	for name, cfg := range map[string]Config{
		"nothing given": {},
		"long path":     {Dir: filepath.Join(t.TempDir(), string(make([]byte, 0)), "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789")},
		"no TLS file":   {Endpoints: []string{"https://127.0.0.1:2379"}, TLS: TLSFiles{CA: "/nonexistent"}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
