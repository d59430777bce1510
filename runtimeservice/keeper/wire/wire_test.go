package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is two connected ends.
func pair(t testing.TB) (a, b *Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = New(c.(*net.UnixConn))
		t.Cleanup(func() { c.Close() })
		ends[i].SetDeadline(time.Now().Add(20 * time.Second))
	}
	return ends[0], ends[1]
}

func TestFrames(t *testing.T) {
	a, b := pair(t)
	// Larger than a socket buffer, so that the frame is sent and received in parts.
	long := strings.Repeat("x", 3<<20)
	sent := make(chan error, 1)
	go func() {
		err := a.Send(map[string]string{"k": "v"})
		if err == nil {
			err = a.Send(long)
		}
		a.Close()
		sent <- err
	}()
	var m map[string]string
	if _, err := b.Receive(&m); err != nil || m["k"] != "v" {
		t.Fatalf("first frame: %v %v", m, err)
	}
	var s string
	if _, err := b.Receive(&s); err != nil || s != long {
		t.Fatalf("long frame: %d bytes, %v", len(s), err)
	}
	if _, err := b.Receive(&s); err != io.EOF {
		t.Fatalf("after close: %v, want io.EOF", err)
	}
	if err := <-sent; err != nil {
		t.Fatal(err)
	}
}

func TestFilesArriveWithTheirFrame(t *testing.T) {
	a, b := pair(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := a.Send("none"); err != nil {
		t.Fatal(err)
	}
	if err := a.Send("one", w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	var s string
	files, err := b.Receive(&s)
	if err != nil || s != "none" || len(files) != 0 {
		t.Fatalf("first frame: %q, %d files, %v", s, len(files), err)
	}
	files, err = b.Receive(&s)
	if err != nil || s != "one" || len(files) != 1 {
		t.Fatalf("second frame: %q, %d files, %v", s, len(files), err)
	}
	if _, err := files[0].WriteString("through"); err != nil {
		t.Fatal(err)
	}
	files[0].Close()
	got, err := io.ReadAll(r)
	if err != nil || string(got) != "through" {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestMalformed(t *testing.T) {
	for name, in := range map[string]string{
		"short head":  "\x00\x00",
		"short body":  "\x00\x00\x00\x05{}",
		"too long":    "\xff\xff\xff\xff{}",
		"no json":     "\x00\x00\x00\x02{{",
		"empty frame": "\x00\x00\x00\x00",
	} {
		var v any
		if err := Decode(strings.NewReader(in), &v); !errors.Is(err, ErrFrame) {
			t.Errorf("%s: %v, want ErrFrame", name, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	good, err := Encode(map[string]any{"method": "create", "body": json.RawMessage(`{"id":"a"}`)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte("\x00\x00\x00\x02{}\x00\x00"))
	f.Add([]byte("\x7f\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r := bytes.NewReader(in)
		for {
			var v any
			if err := Decode(r, &v); err != nil {
				return
			}
			if _, err := Encode(v); err != nil {
				t.Fatalf("what was decoded cannot be encoded: %v", err)
			}
		}
	})
}
