package hold

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper/proc"
)

// open is a store of this test's own; again finds it as the next keeper does.
func open(t *testing.T) (s *Store, again func() (*Store, map[string][]*os.File)) {
	t.Helper()
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	last := s
	t.Cleanup(func() { last.Release() })
	return s, func() (*Store, map[string][]*os.File) {
		t.Helper()
		last.Close()
		next, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if next.Holder() != s.Holder() {
			t.Skip("this kernel, or who confines us, lets nobody fetch files (pidfd_getfd, Linux 5.6)")
		}
		last = next
		files, err := next.Files()
		if err != nil {
			t.Fatal(err)
		}
		return next, files
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

// What a pipe held when everybody who used it was gone is there for the next one.
func TestFilesOutliveTheirUser(t *testing.T) {
	s, again := open(t)
	r, w := pipe(t)
	if _, err := w.WriteString("kept"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("a", r, w); err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	for range 3 { // and the one after
		_, files := again()
		if got := slices.Collect(maps.Keys(files)); len(got) != 1 || len(files["a"]) != 2 {
			t.Fatalf("files of %q", got)
		}
		b := make([]byte, 4)
		if _, err := io.ReadFull(files["a"][0], b); err != nil || string(b) != "kept" {
			t.Fatalf("%q, %v", b, err)
		}
		if _, err := files["a"][1].WriteString("kept"); err != nil {
			t.Fatal(err)
		}
		files["a"][0].Close()
		files["a"][1].Close()
	}
}

// Dropping closes at once, and takes nothing else along.
func TestDrop(t *testing.T) {
	s, again := open(t)
	r, w := pipe(t)
	other, _ := pipe(t)
	for name, f := range map[string]*os.File{"w": w, "other": other} {
		if err := s.Put(name, f); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Put("w", w); err == nil {
		t.Error("a name was taken twice")
	}
	w.Close()
	for range 2 {
		if err := s.Drop("w"); err != nil {
			t.Error(err)
		}
	}
	r.SetReadDeadline(time.Now().Add(10 * time.Second))
	if text, err := io.ReadAll(r); err != nil || len(text) > 0 {
		t.Errorf("read %q, %v: somebody still has the other end", text, err)
	}
	if _, files := again(); len(files) != 1 || len(files["other"]) != 1 {
		t.Errorf("left: %v", files)
	}
}

// Forgotten entries do not pile up, and a thousand living ones fit.
func TestMany(t *testing.T) {
	s, again := open(t)
	f, _ := pipe(t)
	for i := range 1000 {
		if err := s.Put(fmt.Sprint(i), f); err != nil {
			if errors.Is(err, unix.EAGAIN) && os.Geteuid() != 0 {
				t.Skipf("only root can make the queue as long: entry %d: %v", i, err)
			}
			t.Fatal(err)
		}
	}
	for i := range 990 {
		if err := s.Forget(fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	if s.total > 2*10+slack {
		t.Errorf("%d entries for 10 names", s.total)
	}
	_, files := again()
	if len(files) > 2*10+slack || files["999"] == nil || files["990"] == nil {
		t.Errorf("%d names", len(files))
	}
}

// A keeper is killed between putting an entry again and receiving it, and while it looks through: entries are there once.
func TestKilledWhileRotating(t *testing.T) {
	s, again := open(t)
	f, _ := pipe(t)
	for _, name := range []string{"a", "b"} {
		if err := s.Put(name, f); err != nil {
			t.Fatal(err)
		}
	}
	first, fds, err := s.receive(unix.MSG_PEEK)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.send(first, fds), s.send(entry{name: endMark + "of a killed one"}, nil)); err != nil {
		t.Fatal(err)
	}
	closeFds(fds)
	next, files := again()
	if len(files) != 2 || len(files["a"]) != 1 || next.total != 2 {
		t.Errorf("%v, %d entries", files, next.total)
	}
}

// A holder that is killed is replaced by whoever opens next; one that nobody wrote down is ended.
func TestHolderIsKilled(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 {
		s, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			if err := os.Remove(s.refPath()); err != nil {
				t.Fatal(err)
			}
			next, err := Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := proc.StartTime(s.Holder()); err == nil && !proc.Zombie(s.Holder()) {
				t.Error("the holder that nobody knows is left")
			}
			s.Close()
			s = next
		}
		s.Release()
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

func TestPutRefuses(t *testing.T) {
	s, _ := open(t)
	f, _ := pipe(t)
	for name, files := range map[string][]*os.File{"": {f}, "none": {}, "many": {f, f, f, f, f}, strings.Repeat("x", maxName+1): {f}} {
		if err := s.Put(name, files...); err == nil {
			t.Errorf("%d files by %q: put", len(files), name)
		}
	}
}

// A name that is held, forgotten and held again stands for what was put last, though the first is in the queue still.
func TestHeldAgain(t *testing.T) {
	s, again := open(t)
	old, _ := pipe(t)
	r, w := pipe(t)
	if err := s.Put("a", old); err != nil {
		t.Fatal(err)
	}
	if err := s.Forget("a"); err != nil {
		t.Fatal(err)
	}
	if err := s.Put("a", r); err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteString("new"); err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	if err := s.compact(); err != nil || s.total != 1 {
		t.Errorf("%d entries, %v", s.total, err)
	}
	if err := s.Forget("a"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, files := again()
		if len(files["a"]) != 1 {
			t.Fatalf("files %v", files)
		}
		n := 0
		raw, err := files["a"][0].SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		err = raw.Control(func(fd uintptr) { // without taking it
			n, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ)
		})
		if err != nil || n != len("new") {
			t.Errorf("%d bytes, %v: it is the old pipe", n, err)
		}
		files["a"][0].Close()
	}
}
