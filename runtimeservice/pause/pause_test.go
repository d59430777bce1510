package pause

import (
	"bytes"
	"debug/elf"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestProgramsAreExecutables(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		text, err := Program(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(text))
		if err != nil {
			t.Fatalf("%s: %v", arch, err)
		}
		if f.Machine != machine || f.Entry != address+headers || f.Progs[0].Filesz != uint64(len(text)) {
			t.Errorf("%s: %+v", arch, f.FileHeader)
		}
	}
	if _, err := Program("vax"); err == nil {
		t.Error("a program for an unknown architecture")
	}
}

// TestItIgnoresChildren runs the program and reads in /proc that it sleeps with SIGCHLD ignored.
func TestItIgnoresChildren(t *testing.T) {
	text, err := Program(runtime.GOARCH)
	if err != nil {
		t.Skipf("architecture: %v", err)
	}
	path := filepath.Join(t.TempDir(), "pause")
	if err := os.WriteFile(path, text, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(cmd.Process.Pid), "status"))
		if err != nil {
			t.Fatal(err)
		}
		if ignoresChildren(t, string(status)) && strings.Contains(string(status), "State:\tS") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not pause:\n%s", status)
		}
	}
}

// ignoresChildren looks for SIGCHLD in the mask of ignored signals; others may be ignored by whoever runs the test.
func ignoresChildren(t *testing.T, status string) bool {
	t.Helper()
	_, rest, _ := strings.Cut(status, "SigIgn:\t")
	mask, err := strconv.ParseUint(strings.TrimSpace(strings.SplitN(rest, "\n", 2)[0]), 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return mask&(1<<(uint(syscall.SIGCHLD)-1)) != 0
}
