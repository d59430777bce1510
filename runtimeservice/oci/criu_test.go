package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPipeName finds a named pipe of a process by mount and inode, and leaves other files alone.
func TestPipeName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stdout")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	pipe, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	cmd := exec.Command("sleep", "1000")
	cmd.Stdout = pipe
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	var mount int
	got, err := pipeName(cmd.Process.Pid, 1)
	if _, scan := fmt.Sscanf(got, "file[%x:", &mount); err != nil || scan != nil || got != fmt.Sprintf("file[%x:%x]", mount, st.Ino) {
		t.Errorf("%q, %v", got, err)
	}
	for _, fd := range []int{0, 900} {
		if got, err := pipeName(cmd.Process.Pid, fd); got != "" || err != nil {
			t.Errorf("descriptor %d: %q, %v", fd, got, err)
		}
	}
}
