// Package wholetest makes the disk slow for tests.
package wholetest

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Hold makes the next write of the file at path wait until release is called, which has to be done.
func Hold(t *testing.T, path string) (release func()) {
	t.Helper()
	fifo := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)) // what package whole writes and renames; opening it waits for a reader
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		r, err := os.OpenFile(fifo, os.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { r.Close() })
	}
}

// Free waits until something in memory is done, as done tells, while a write is held whose end wrote tells.
func Free(t *testing.T, done <-chan bool, wrote <-chan error) {
	t.Helper()
	select {
	case <-done:
	case err := <-wrote:
		t.Errorf("the write was not waited for: %v", err)
	case <-time.After(20 * time.Second):
		t.Error("what is in memory waits for the disk")
	}
}
