package podlog

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const sample = `2026-11-22T10:00:00.000000001Z stdout F one
2026-11-22T10:00:01.000000001Z stderr F oops
2026-11-22T10:00:02.000000001Z stdout P lo
2026-11-22T10:00:02.000000002Z stdout F ng
what is this
2026-11-22T10:00:03.000000001Z stdout F 
2026-11-22T10:00:04.000000001Z stdout F last
`

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRead(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Options)
		want   string
	}{
		"all":        {func(*Options) {}, "one\noops\nlong\n\nlast\n"},
		"stdout":     {func(o *Options) { o.Stderr = nil }, "one\nlong\n\nlast\n"},
		"stderr":     {func(o *Options) { o.Stdout = nil }, "oops\n"},
		"tail":       {func(o *Options) { o.Tail = 2 }, "\nlast\n"},
		"tail none":  {func(o *Options) { o.Tail = 0 }, ""},
		"tail more":  {func(o *Options) { o.Tail = 100 }, "one\noops\nlong\n\nlast\n"},
		"limit":      {func(o *Options) { o.Limit = 6 }, "one\noo"},
		"limit edge": {func(o *Options) { o.Limit = 4 }, "one\n"},
		"since":      {func(o *Options) { o.Since = time.Date(2026, 11, 22, 10, 0, 3, 0, time.UTC) }, "\nlast\n"},
		"timestamps": {func(o *Options) { o.Timestamps, o.Tail = true, 5 },
			"2026-11-22T10:00:02.000000001Z long\n2026-11-22T10:00:03.000000001Z \n2026-11-22T10:00:04.000000001Z last\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			o := Options{Path: file(t, sample), Tail: -1, Limit: -1, Stdout: &out, Stderr: &out}
			c.change(&o)
			if err := Read(context.Background(), o); err != nil || out.String() != c.want {
				t.Errorf("got %q, %v; want %q", out.String(), err, c.want)
			}
		})
	}
}

func TestReadUnfinished(t *testing.T) {
	var out bytes.Buffer
	o := Options{Path: file(t, "2026-11-22T10:00:00Z stdout F one\n2026-11-22T10:00:00Z stdout F hal"), Tail: -1, Limit: -1, Stdout: &out}
	if err := Read(context.Background(), o); err != nil || out.String() != "one\nhal\n" {
		t.Errorf("%q, %v", out.String(), err)
	}
	if err := Read(context.Background(), Options{Path: filepath.Join(t.TempDir(), "none")}); err == nil {
		t.Error("a log that is not there is no error")
	}
}

// sink is where the follower writes; it can be waited for.
type sink struct {
	mu    sync.Mutex
	text  strings.Builder
	grown chan struct{}
}

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.text.Write(p)
	s.mu.Unlock()
	select {
	case s.grown <- struct{}{}:
	default:
	}
	return len(p), nil
}

func (s *sink) until(t *testing.T, want string) {
	t.Helper()
	late := time.After(20 * time.Second)
	for {
		s.mu.Lock()
		got := s.text.String()
		s.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-s.grown:
		case <-late:
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func write(t *testing.T, path string, lines ...string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, l := range lines {
		if _, err := fmt.Fprintf(f, "2026-11-22T10:00:00Z stdout F %s\n", l); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFollow follows a log over rotations, until the container has ended.
func TestFollow(t *testing.T) {
	path := file(t, "")
	write(t, path, "a")
	out := &sink{grown: make(chan struct{}, 1)}
	var running atomic.Bool
	running.Store(true)
	done := make(chan error)
	go func() {
		done <- Read(context.Background(), Options{Path: path, Tail: -1, Limit: -1, Follow: true, Stdout: out,
			Running: func(context.Context) (bool, error) { return running.Load(), nil }})
	}()
	out.until(t, "a\n")
	write(t, path, "b")
	out.until(t, "a\nb\n")
	for i := range 3 {
		if err := os.Rename(path, fmt.Sprintf("%s.%d", path, i)); err != nil {
			t.Fatal(err)
		}
		write(t, fmt.Sprintf("%s.%d", path, i), "old") // the runtime still writes to the renamed one
		write(t, path, "new")
		out.until(t, "a\nb\n"+strings.Repeat("old\nnew\n", i+1))
	}
	write(t, path, "end")
	running.Store(false)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	out.until(t, "a\nb\n"+strings.Repeat("old\nnew\n", 3)+"end\n")
}

// TestFollowRotatedEarly: the log is rotated after its end was read and before anything is waited for.
func TestFollowRotatedEarly(t *testing.T) {
	path := file(t, "")
	write(t, path, "a")
	out := &sink{grown: make(chan struct{}, 1)}
	asked := 0
	err := Read(context.Background(), Options{Path: path, Tail: -1, Limit: -1, Follow: true, Stdout: out,
		Running: func(context.Context) (bool, error) {
			if asked++; asked == 1 {
				if err := os.Rename(path, path+".1"); err != nil {
					return false, err
				}
				write(t, path, "b")
			}
			return asked < 3, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	out.until(t, "a\nb\n")
}

func TestFollowEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	err := Read(ctx, Options{Path: file(t, sample), Tail: 0, Limit: -1, Follow: true, Stdout: &sink{grown: make(chan struct{}, 1)},
		Running: func(context.Context) (bool, error) { cancel(); return true, nil }})
	if err != context.Canceled {
		t.Error(err)
	}
}
