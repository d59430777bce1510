//go:build root

package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestFreeze(t *testing.T) {
	root, err := Mounted()
	if err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("/skiff-test-freeze-%d", os.Getpid())
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = root.Thaw(t.Context(), name)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		for range 1000 {
			if !root.Exists(name) || root.Remove(name) == nil {
				return
			}
			time.Sleep(time.Millisecond)
		}
		t.Error("the cgroup is left")
	})
	if err := root.Enter(name, cmd.Process.Pid); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := root.Freeze(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	// What is frozen does not even see a signal.
	if err := cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", cmd.Process.Pid)); err != nil || strings.Contains(string(stat), ") Z ") {
		t.Errorf("a frozen process ended: %s, %v", stat, err)
	}
	if err := root.Thaw(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil || !strings.Contains(err.Error(), "terminated") {
		t.Errorf("after thawing: %v", err)
	}
	if err := root.Thaw(t.Context(), name+"-none"); err != nil {
		t.Errorf("thawing what is not there: %v", err)
	}
}
