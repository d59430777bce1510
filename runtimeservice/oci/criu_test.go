package oci

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// TestPipeName finds the name that CRIU, which looks at the open descriptor, has for a named pipe.
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
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pipe.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(pipe.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	var mount int
	got, err := pipeName(path)
	if _, scan := fmt.Sscanf(got, "file[%x:", &mount); err != nil || scan != nil || got != fmt.Sprintf("file[%x:%x]", mount, st.Ino) {
		t.Errorf("%q, %v", got, err)
	}
	if !strings.Contains(string(info), fmt.Sprintf("mnt_id:\t%d\n", mount)) {
		t.Errorf("mount %d, the kernel says: %s", mount, info)
	}
	if got, err := pipeName(path + ".none"); err == nil {
		t.Errorf("a pipe that is not there: %q", got)
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
