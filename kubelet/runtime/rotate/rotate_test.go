package rotate

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"google.golang.org/grpc"
)

// logger is a runtime with one container, whose log it writes.
type logger struct {
	path string
	file *os.File
}

func (l *logger) ContainerStatus(context.Context, *cri.ContainerStatusRequest, ...grpc.CallOption) (*cri.ContainerStatusResponse, error) {
	return &cri.ContainerStatusResponse{Status: &cri.ContainerStatus{LogPath: l.path}}, nil
}

func (l *logger) ReopenContainerLog(context.Context, *cri.ReopenContainerLogRequest, ...grpc.CallOption) (*cri.ReopenContainerLogResponse, error) {
	if l.file != nil {
		if err := l.file.Close(); err != nil {
			return nil, err
		}
	}
	var err error
	l.file, err = os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	return &cri.ReopenContainerLogResponse{}, err
}

func TestRotate(t *testing.T) {
	dir := t.TempDir()
	l := &logger{path: filepath.Join(dir, "0.log")}
	if _, err := l.ReopenContainerLog(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.file.Close() }()
	r, err := New(Config{Runtime: l, Running: func() []string { return []string{"c"} }, MaxSize: 10, MaxFiles: 3, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	paths := map[string]string{}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, step := range []struct{ write, want string }{
		{"short", "0.log"},
		{" and long", "0.log 0.log.20260101-000002"},
		{"long enough", "0.log 0.log.20260101-000002.gz 0.log.20260101-000003"},
		{"short", "0.log 0.log.20260101-000002.gz 0.log.20260101-000003"},
		{" and long", "0.log 0.log.20260101-000003.gz 0.log.20260101-000005"},
	} {
		if _, err := l.file.WriteString(step.write); err != nil {
			t.Fatal(err)
		}
		now = now.Add(time.Second)
		r.look(context.Background(), paths, now)
		if got := list(t, dir); got != step.want {
			t.Errorf("after %q: %s, want %s", step.write, got, step.want)
		}
	}
	if err := os.Remove(l.path); err != nil {
		t.Fatal(err)
	}
	r.look(context.Background(), paths, now)
	if got := list(t, dir); !strings.HasPrefix(got, "0.log ") {
		t.Errorf("a log that was taken away is not opened again: %s", got)
	}
}

func list(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}
