package stdio

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// tmpfs is a directory on one.
func tmpfs(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "skiff-stdio-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// A keeper is killed at each instant between a container's pipe and its log. The next one finds what the kill left, and the
// log has each line once and whole.
func TestKilledBetweenPipeAndLog(t *testing.T) {
	const written = "one\ntwo\nthree\nunfin"
	for name, kill := range map[string]func(t *testing.T, l *logFile, s *spool, chunk []byte){
		"before the mark":     func(*testing.T, *logFile, *spool, []byte) {},
		"before the log":      func(t *testing.T, l *logFile, s *spool, chunk []byte) { cut(t, l, s, chunk, 0) },
		"inside a time stamp": func(t *testing.T, l *logFile, s *spool, chunk []byte) { cut(t, l, s, chunk, 10) },
		"inside a line":       func(t *testing.T, l *logFile, s *spool, chunk []byte) { cut(t, l, s, chunk, 52) },
		"after a line":        func(t *testing.T, l *logFile, s *spool, chunk []byte) { cut(t, l, s, chunk, 43) },
		"before the clearing": func(t *testing.T, l *logFile, s *spool, chunk []byte) { l.write(logs.Stdout, chunk, s) },
		"after the clearing":  func(t *testing.T, l *logFile, s *spool, chunk []byte) { l.write(logs.Stdout, chunk, s); s.clear() },
		"while another stream was written": func(t *testing.T, l *logFile, s *spool, chunk []byte) {
			l.write(logs.Stdout, chunk, s)
			l.write(logs.Stderr, []byte("err\n"), nil)
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.Dir = tmpfs(t)
			first, _, out, _ := begun(t, cfg)
			first.Finish()
			first.Wait()
			l, err := openLog(cfg.LogPath, cfg.Warn)
			if err != nil {
				t.Fatal(err)
			}
			l.write(logs.Stdout, []byte("zero\n"), nil)
			s, err := openSpool(filepath.Join(cfg.Dir, "stdout.spool"))
			if err != nil {
				t.Fatal(err)
			}
			pipe, err := os.OpenFile(filepath.Join(cfg.Dir, "stdout"), os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer pipe.Close()
			write(t, out, written)
			chunk := make([]byte, 4096)
			n, err := s.take(int(pipe.Fd()), chunk)
			if err != nil || string(chunk[:n]) != written {
				t.Fatalf("taken %q, %v", chunk[:n], err)
			}
			kill(t, l, s, chunk[:n])

			second, err := Resume(cfg, nil)
			if err != nil {
				t.Fatal(err)
			}
			write(t, out, "ished\n")
			second.Finish()
			second.Wait()
			got := strings.Replace(content(t, cfg.LogPath), "stderr err\n", "", 1)
			if want := "stdout zero\nstdout one\nstdout two\nstdout three\nstdout unfin…\nstdout ished\n"; got != want {
				t.Errorf("log\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// cut marks, and writes the first bytes only of what belongs into the log.
func cut(t *testing.T, l *logFile, s *spool, chunk []byte, bytes int) {
	t.Helper()
	l.buf = (&logs.Splitter{Stream: logs.Stdout}).Append(nil, chunk, time.Now())
	l.note(s)
	if _, err := l.file.Write(l.buf[:bytes]); err != nil {
		t.Fatal(err)
	}
}

// An unfinished line that an earlier keeper has logged is closed at the end.
func TestResumeInsideALine(t *testing.T) {
	cfg := config(t)
	first, _, out, _ := begun(t, cfg)
	write(t, out, "begun")
	for content(t, cfg.LogPath) == "" {
		time.Sleep(time.Millisecond)
	}
	second, err := Resume(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	second.Finish()
	second.Wait()
	if got := content(t, cfg.LogPath); got != "stdout begun…\nstdout \n" {
		t.Errorf("log %q", got)
	}
	first.Finish()
}

// A log that cannot be opened any more does not keep a container from being taken over, and is made by the next reopening.
func TestResumeWithoutALog(t *testing.T) {
	cfg := config(t)
	first, _, out, _ := begun(t, cfg)
	first.Finish()
	first.Wait()
	path := cfg.LogPath
	warned := 0
	cfg.LogPath, cfg.Warn = filepath.Join(path, "not-a-directory"), func(error) { warned++ }
	s, err := Resume(cfg, nil)
	if err != nil || warned != 1 {
		t.Fatalf("%v, %d warnings", err, warned)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := s.Reopen(); err != nil {
		t.Fatal(err)
	}
	write(t, out, "back\n")
	s.Finish()
	s.Wait()
	if got := content(t, cfg.LogPath); got != "stdout back\n" {
		t.Errorf("log %q", got)
	}
}

// Whatever a spool and a log hold after a crash, all lines after it are whole.
func FuzzSpool(f *testing.F) {
	f.Fuzz(func(t *testing.T, spooled, logged []byte) {
		dir := t.TempDir()
		path := filepath.Join(dir, "log")
		for name, text := range map[string][]byte{"stdout.spool": spooled, "log": logged} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		l, err := openLog(path, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		defer l.close()
		s, err := openSpool(filepath.Join(dir, "stdout.spool"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.file.Close()
		if err := recoverSpools(l, map[logs.Stream]*spool{logs.Stdout: s}); err != nil {
			t.Fatal(err)
		}
		l.resume()
		l.write(logs.Stdout, []byte("after\n"), s)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		last := text[strings.LastIndexByte(strings.TrimSuffix(string(text), "\n"), '\n')+1:]
		if e, err := logs.Parse(last); err != nil || string(e.Content) != "after" || e.Partial {
			t.Errorf("the last line is %q, %v", last, err)
		}
		if left, m, err := s.left(); err != nil || m == (mark{}) && len(left) > 0 {
			t.Errorf("the spool holds %q, %v", left, err)
		}
	})
}

// What a terminal holds moves into a pipe in one step.
func TestTerminalIsSpliced(t *testing.T) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY)
	if errno != 0 {
		t.Fatal(errno)
	}
	defer unix.Close(int(slave))
	if _, err := unix.Write(int(slave), []byte("shown\n")); err != nil {
		t.Fatal(err)
	}
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p[0])
	defer unix.Close(p[1])
	n, err := splice(fd, p[1])
	if err == unix.EINVAL {
		t.Skip("this kernel cannot splice from terminals: what a kill of the keeper cuts there is lost")
	}
	b := make([]byte, 16)
	if err != nil || n != len("shown\r\n") {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if n, err := unix.Read(p[0], b); err != nil || string(b[:n]) != "shown\r\n" {
		t.Errorf("%q, %v", b[:n], err)
	}
}
