package oci

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestReleaseOfAShortProgram: the init has gone on, and its program has ended, before anybody read its byte. It was
// started nevertheless; an init that has died without a byte was not.
func TestReleaseOfAShortProgram(t *testing.T) {
	died := make(chan struct{})
	close(died)
	for range 1000 {
		path := filepath.Join(t.TempDir(), "exec.fifo")
		keep := fifo(t, path)
		writer, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte{0}); err != nil {
			t.Fatal(err)
		}
		writer.Close()
		if err := release(path, died); err != nil {
			t.Fatalf("after the byte was written: %v", err)
		}
		keep.Close()
	}
	path := filepath.Join(t.TempDir(), "exec.fifo")
	defer fifo(t, path).Close()
	if err := release(path, died); !errors.Is(err, ErrGone) {
		t.Errorf("of an init that has died: %v, want %v", err, ErrGone)
	}
}

// fifo makes one and opens it for reading, so that it keeps what is written.
func fifo(t *testing.T, path string) *os.File {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return f
}
