package stdio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// content is the log without its times.
func content(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for line := range bytes.Lines(text) {
		e, err := logs.Parse(line)
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(string(e.Stream) + " " + string(e.Content))
		if e.Partial {
			b.WriteString("…")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func config(t *testing.T) Config {
	dir := t.TempDir()
	return Config{Dir: dir, LogPath: filepath.Join(dir, "log", "0.log"), Warn: func(err error) { t.Error(err) }}
}

// begun are streams with copies of the container's ends, which Begin closes.
func begun(t *testing.T, cfg Config) (s *Streams, stdin, stdout, stderr *os.File) {
	t.Helper()
	s, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	var ends [3]*os.File
	in, out, errs := s.Child()
	for i, f := range []*os.File{in, out, errs} {
		if f == nil {
			continue
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = os.NewFile(uintptr(fd), f.Name())
		t.Cleanup(func() { ends[i].Close() })
	}
	s.Begin(nil)
	t.Cleanup(func() { s.Finish(); s.Wait() })
	return s, ends[0], ends[1], ends[2]
}

func write(t *testing.T, f *os.File, text string) {
	t.Helper()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
}

func TestFinishFlushesThoughAWriterIsLeft(t *testing.T) {
	cfg := config(t)
	s, _, out, errs := begun(t, cfg)
	write(t, errs, "first\n")
	write(t, out, strings.Repeat("line\n", 5000))
	write(t, out, "unfinished")
	s.Finish() // out and errs are still open
	got := content(t, cfg.LogPath)
	if strings.Count(got, "stdout line\n") != 5000 || !strings.Contains(got, "stderr first\n") || !strings.Contains(got, "stdout unfinished…\n") || !strings.HasSuffix(got, "stdout \n") {
		t.Errorf("log of %d bytes ends in %q", len(got), got[max(0, len(got)-80):])
	}
	if err := s.Reopen(); !errors.Is(err, ErrEnded) {
		t.Errorf("reopen after the end: %v", err)
	}
	_, w, _ := os.Pipe()
	if err := s.Attach(nil, w, nil); !errors.Is(err, ErrEnded) {
		t.Errorf("attach after the end: %v", err)
	}
}

// What a container writes while nobody reads waits in its pipe for the next keeper.
func TestResume(t *testing.T) {
	cfg := config(t)
	first, _, out, _ := begun(t, cfg)
	write(t, out, "one\n")
	first.Finish()
	first.Wait() // as after the keeper's death: its ends are closed
	write(t, out, "two\n")
	second, err := Resume(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	write(t, out, "three\n")
	second.Finish()
	second.Wait()
	if got := content(t, cfg.LogPath); got != "stdout one\nstdout two\nstdout three\n" {
		t.Errorf("log %q", got)
	}
}

func TestAttachAndDetach(t *testing.T) {
	cfg := config(t)
	cfg.Stdin = true
	s, in, out, _ := begun(t, cfg)
	inR, inW, _ := os.Pipe()
	outR, outW, _ := os.Pipe()
	if err := s.Attach(inR, outW, nil); err != nil {
		t.Fatal(err)
	}
	write(t, inW, "typed")
	b := make([]byte, 5)
	if _, err := io.ReadFull(in, b); err != nil || string(b) != "typed" {
		t.Fatalf("stdin %q, %v", b, err)
	}
	write(t, out, "shown")
	if _, err := io.ReadFull(outR, b); err != nil || string(b) != "shown" {
		t.Fatalf("stdout %q, %v", b, err)
	}
	inW.Close()
	outR.Close()
	s.Finish()
	s.Wait() // nothing holds the detached peer
}

func TestAPeerThatStandsStillIsLetGo(t *testing.T) {
	cfg := config(t)
	cfg.LogPath = ""
	s, _, out, _ := begun(t, cfg)
	outR, outW, _ := os.Pipe()
	defer outR.Close()
	if err := s.Attach(nil, outW, nil); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		chunk := make([]byte, 64<<10)
		for range 40 {
			if _, err := out.Write(chunk); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the container is stopped by its peer")
	}
}

func TestStreamsThatAreNotThere(t *testing.T) {
	s, _, _, _ := begun(t, config(t))
	r, _, _ := os.Pipe()
	if err := s.Attach(r, nil, nil); !errors.Is(err, ErrNoStream) {
		t.Errorf("stdin: %v", err)
	}
	if err := s.Resize(1, 1); !errors.Is(err, ErrNoStream) {
		t.Errorf("resize: %v", err)
	}
}

// A full disk loses lines, not the container, and later lines start whole.
func TestLogCannotBeWritten(t *testing.T) {
	var warned []error
	l, err := openLog("/dev/full", func(err error) { warned = append(warned, err) })
	if err != nil {
		t.Fatal(err)
	}
	l.write(logs.Stdout, []byte("lost\n"), nil)
	l.write(logs.Stdout, []byte("lost too\n"), nil)
	if len(warned) != 1 || !errors.Is(warned[0], unix.ENOSPC) {
		t.Errorf("warnings %v, want one", warned)
	}
	l.close()
}
