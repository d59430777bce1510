//go:build root

package netns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/network/networktest"
)

func TestMain(m *testing.M) { os.Exit(networktest.Isolate(m.Run)) }

func inode(t *testing.T, path string) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func mounts(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestAdoptedNamespace pins the namespace of a process, which then ends.
func TestAdoptedNamespace(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	file := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	want := inode(t, file)
	path, err := Adopt(dir, "owned", file)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if err != nil || inode(t, path) != want {
		t.Errorf("%s, %v", path, err)
	}
	if err := Remove(path); err != nil {
		t.Error(err)
	}
}

func TestNamespaceLivesAtItsPath(t *testing.T) {
	before, dir, own := mounts(t), t.TempDir(), inode(t, "/proc/self/ns/net")
	path, err := Create(dir, "sandbox")
	if err != nil {
		t.Fatal(err)
	}
	if path != Path(dir, "sandbox") || !Exists(path) || inode(t, path) == own {
		t.Errorf("%s exists %v", path, Exists(path))
	}
	err = Do(path, func() error {
		out, err := exec.Command("ip", "-br", "link").CombinedOutput()
		if lines := strings.Split(strings.TrimSpace(string(out)), "\n"); len(lines) != 1 || !strings.Contains(lines[0], "LOOPBACK,UP") {
			return fmt.Errorf("interfaces: %s", out)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	first := inode(t, path)
	if again, err := Create(dir, "sandbox"); err != nil || again != path || inode(t, path) == first {
		t.Errorf("again: %s, %v", again, err)
	}
	if ids, err := List(dir); err != nil || len(ids) != 1 || ids[0] != "sandbox" {
		t.Errorf("list: %v, %v", ids, err)
	}
	for range 2 {
		if err := Remove(path); err != nil {
			t.Error(err)
		}
	}
	if Exists(path) || mounts(t) != before {
		t.Errorf("after Remove:\n%s", mounts(t))
	}
	if err := Do(path, func() error { return nil }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Do in what is gone: %v", err)
	}
}

func TestRemoveWhatIsHalfMade(t *testing.T) {
	before, dir := mounts(t), t.TempDir()
	file := Path(dir, "file")
	if err := os.WriteFile(file, nil, 0o444); err != nil {
		t.Fatal(err)
	}
	twice, err := Create(dir, "twice")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("/proc/self/ns/net", twice, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	held, err := os.Open(twice)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	for _, path := range []string{file, twice, filepath.Join(dir, "missing"), ""} {
		if err := Remove(path); err != nil {
			t.Errorf("%q: %v", path, err)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 || mounts(t) != before {
		t.Errorf("left: %v\n%s", entries, mounts(t))
	}
	for _, id := range []string{"", "a/b"} {
		if _, err := Create(dir, id); err == nil {
			t.Errorf("id %q is accepted", id)
		}
	}
}

// TestThreadsStayHome checks after many changes that no thread is left in another namespace.
func TestThreadsStayHome(t *testing.T) {
	dir, own := t.TempDir(), inode(t, "/proc/self/ns/net")
	done := make(chan error)
	for i := range 20 {
		go func() {
			path, err := Create(dir, fmt.Sprint("s", i))
			if err == nil {
				err = Do(path, func() error { return errors.New("inside") })
			}
			if err == nil || err.Error() != "inside" {
				done <- fmt.Errorf("the function's error is lost: %w", err)
				return
			}
			done <- Remove(path)
		}()
	}
	for range 20 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	tasks, err := filepath.Glob("/proc/self/task/*/ns/net")
	if err != nil || len(tasks) == 0 {
		t.Fatal(tasks, err)
	}
	for _, task := range tasks {
		var st unix.Stat_t
		if unix.Stat(task, &st) == nil && st.Ino != own {
			t.Errorf("%s is in another namespace", task)
		}
	}
}
