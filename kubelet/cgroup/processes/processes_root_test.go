//go:build root

package processes

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/kubelet/cgroup"
)

// TestMove moves processes of its own from a group of its own, in every tree of the machine, and nobody else's.
func TestMove(t *testing.T) {
	layout, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	from := "/skiff-test-" + strings.ToLower(rand.Text())
	to := from + "-system"
	if err := layout.Make(from); err != nil {
		t.Fatal(err)
	}
	k, err := New(Config{Layout: layout, System: to, From: from})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, root := range layout.Roots {
			for _, group := range []string{to, from} {
				removeGroup(t, filepath.Join(root, group))
			}
		}
	})
	var pids []int
	for range 2 {
		cmd := exec.Command("cat")
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { in.Close(); cmd.Wait() })
		pids = append(pids, cmd.Process.Pid)
		if err := k.move(cmd.Process.Pid, from); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.Keep(); err != nil {
		t.Fatal(err)
	}
	for _, root := range layout.Roots {
		for _, pid := range pids {
			in := func(group string) bool {
				data, err := os.ReadFile(filepath.Join(root, group, "cgroup.procs"))
				if err != nil {
					t.Error(err)
				}
				return strings.Contains("\n"+string(data), "\n"+strconv.Itoa(pid)+"\n")
			}
			if in(from) || !in(to) {
				t.Errorf("%s: process %d was not moved", root, pid)
			}
		}
	}
	if err := k.Keep(); err != nil {
		t.Errorf("nobody to move: %v", err)
	}
}

// removeGroup removes it once its processes have ended, which were told to.
func removeGroup(t *testing.T, dir string) {
	for end := time.Now().Add(30 * time.Second); ; {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			t.Error(err)
			return
		}
		time.Sleep(time.Millisecond)
	}
}
