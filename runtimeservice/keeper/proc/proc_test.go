package proc

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWait(t *testing.T) {
	for _, tc := range []struct {
		script string
		want   Status
	}{
		{"exit 0", Status{}},
		{"exit 7", Status{Code: 7}},
		{"kill -9 $$", Status{Code: 137, Signal: 9}},
	} {
		cmd := exec.Command("/bin/sh", "-c", tc.script)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		p, err := Open(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.Wait(); got != tc.want {
			t.Errorf("%s: %+v, want %+v", tc.script, got, tc.want)
		}
		if err := p.Signal(unix.SIGTERM); !errors.Is(err, ErrGone) {
			t.Errorf("%s: signal after exit: %v, want ErrGone", tc.script, err)
		}
	}
}

func TestSignal(t *testing.T) {
	cmd := exec.Command("/bin/sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if got := p.Wait(); got.Signal != int(unix.SIGTERM) || got.Code != 143 {
		t.Errorf("%+v", got)
	}
}

// A process that is not our child: its code comes from the kernel's pidfd, or is said to be unknown.
func TestStranger(t *testing.T) {
	cmd := exec.Command("/bin/sh", "-c", "/bin/sh -c 'read x; exit 9' <&3 & echo $!; wait")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{r}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	got := p.Wait()
	want := Status{Code: 9}
	if !supportsInfo() {
		want = Status{Code: 255, Unknown: true}
	}
	if got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	cmd.Wait()
}

func TestStat(t *testing.T) {
	if start, err := StartTime(os.Getpid()); err != nil || start == 0 {
		t.Errorf("StartTime: %d %v", start, err)
	}
	if _, parent, err := Session(os.Getpid()); err != nil || parent != os.Getppid() {
		t.Errorf("parent %d, want %d: %v", parent, os.Getppid(), err)
	}
	if _, err := Open(1 << 22); err == nil {
		t.Error("opened a process that cannot exist")
	}
}

// The end of a pinned process is known to one who opens the pin after it was reaped, and held by nobody.
func TestPin(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can mount")
	}
	cmd := exec.Command("/bin/sh", "-c", "read x; exit 7")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Open(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/pid"
	err = p.Pin(path)
	defer Unpin(path)
	p.Close()
	stdin.Close()
	_ = cmd.Wait()
	if errors.Is(err, ErrNoPin) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	again, err := OpenPinned(cmd.Process.Pid, path)
	if err != nil {
		t.Fatal(err)
	}
	if got := again.Wait(); got.Code != 7 || got.Unknown {
		t.Errorf("%+v, want code 7", got)
	}
	for range 2 {
		if err := Unpin(path); err != nil {
			t.Error(err)
		}
	}
	if _, err := OpenPinned(cmd.Process.Pid, path); err == nil {
		t.Error("opened what is not pinned")
	}
}
