package oci

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
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

// TestUserConf finds the user's configuration file by the annotation that ours has taken the place of.
func TestUserConf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.conf")
	if err := os.WriteFile(path, []byte("tcp-close"), 0o600); err != nil {
		t.Fatal(err)
	}
	for annotation, want := range map[string]string{path: "tcp-close", path + ".none": "", "": ""} {
		spec := &specs.Spec{Annotations: map[string]string{criuAnnotation: annotation}}
		annotateCriu(spec)
		if filepath.IsAbs(spec.Annotations[criuAnnotation]) {
			t.Errorf("CRIU would read %s twice", spec.Annotations[criuAnnotation])
		}
		var labels []string
		for key, value := range spec.Annotations { // as libcontainer makes them
			labels = append(labels, key+"="+value)
		}
		if got, err := userConf(labels); got != want || err != nil {
			t.Errorf("%q: %q, %v", annotation, got, err)
		}
	}
	spec := &specs.Spec{}
	if annotateCriu(spec); spec.Annotations[userAnnotation] != usualCriuConf {
		t.Errorf("without an annotation: %v", spec.Annotations)
	}
}

func TestPatience(t *testing.T) {
	dir := t.TempDir()
	for size, want := range map[int64]time.Duration{0: 30 * time.Second, 320 << 20: 50 * time.Second, 1 << 40: 210 * time.Second} {
		path := filepath.Join(dir, "pages-1.img")
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, size); err != nil { // a hole
			t.Fatal(err)
		}
		if got, err := patience(dir); got != want || err != nil {
			t.Errorf("%d bytes: %s, %v", size, got, err)
		}
	}
	if _, err := patience(filepath.Join(dir, "none")); err == nil {
		t.Error("no images, no error")
	}
}
