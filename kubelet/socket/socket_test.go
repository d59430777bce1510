package socket

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
)

// TestServe: the socket of a killed kubelet is in nobody's way, and the end of the context is no error.
func TestServe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "s.sock")
	for range 2 { // the first listener is never closed, as when the kubelet is killed
		l, err := Listen(path, "test")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
	}
	l, err := Listen(path, "test")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- Serve(ctx, grpc.NewServer(), l) }()
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	l.Close()
	if err := Serve(t.Context(), grpc.NewServer(), l); err == nil {
		t.Error("served on a closed listener")
	}
	if _, err := Listen("/proc/none/s.sock", "test"); err == nil || !strings.Contains(err.Error(), "the directory of the test socket") {
		t.Error(err)
	}
}
