//go:build root

package keeper_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/logs"
)

func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(); w.Close() })
	return r, w
}

func TestLogIsComplete(t *testing.T) {
	n := start(t)
	// More than a pipe holds, and the last lines written just before the exit.
	exit, _ := n.runToEnd("big", "seq 1 50000; echo last >&2")
	if exit.Code != 0 {
		t.Fatalf("exit %+v", exit)
	}
	var out strings.Builder
	for _, e := range n.entries(n.logPath("big")) {
		if len(e.Content) > logs.MaxContent {
			t.Fatalf("entry of %d bytes", len(e.Content))
		}
		if e.Stream == logs.Stderr {
			continue
		}
		out.Write(e.Content)
		if !e.Partial {
			out.WriteByte('\n')
		}
	}
	var want strings.Builder
	for i := 1; i <= 50000; i++ {
		fmt.Fprintln(&want, i)
	}
	if out.String() != want.String() {
		t.Errorf("the log has %d bytes of %d", out.Len(), want.Len())
	}
	if _, got := n.runToEnd("unfinished", "printf 'no newline'"); got != "stdout no newline…\nstdout \n" {
		t.Errorf("log %q", got)
	}
}

func TestReopenLog(t *testing.T) {
	n := start(t)
	n.shell("a", "trap 'echo second; exit' TERM; echo first; while :; do sleep 0.01; done")
	n.start("a")
	until(t, "first", func() bool { return strings.Contains(n.log("a"), "first") })
	old := n.logPath("a") + ".old"
	if err := os.Rename(n.logPath("a"), old); err != nil {
		t.Fatal(err)
	}
	if err := n.client.ReopenLog(n.ctx, "a"); err != nil {
		t.Fatal(err)
	}
	n.kill("a", 15)
	n.wait("a")
	if got := flatten(n.entries(old)); got != "stdout first\n" {
		t.Errorf("old log %q", got)
	}
	if got := n.log("a"); got != "stdout second\n" {
		t.Errorf("new log %q", got)
	}
	if err := n.client.ReopenLog(n.ctx, "a"); !errors.Is(err, keeper.ErrState) {
		t.Errorf("reopen after exit: %v, want ErrState", err)
	}
}

// A process that survives the init, in a shared PID namespace, holds neither the exit nor the log up, and is killed.
func TestSurvivorDoesNotHoldTheExitUp(t *testing.T) {
	n := start(t)
	s := n.spec("a", "sh", "-c", "sleep 600 & echo $!; exit 4")
	s.Linux.Namespaces = s.Linux.Namespaces[1:] // the host's PID namespace
	n.create(n.request("a", s))
	n.start("a")
	if exit := n.wait("a"); exit.Code != 4 {
		t.Errorf("exit %+v", exit)
	}
	var pid int
	if _, err := fmt.Sscanf(n.log("a"), "stdout %d", &pid); err != nil {
		t.Fatalf("%v in %q", err, n.log("a"))
	}
	until(t, "the survivor is reaped", func() bool { return unix.Kill(pid, 0) != nil })
}

func (n *node) exec(id, exec string, args ...string) (keeper.Exit, string, string) {
	n.t.Helper()
	outR, outW := pipe(n.t)
	errR, errW := pipe(n.t)
	out, errs := make(chan string, 1), make(chan string, 1)
	go func() { b, _ := io.ReadAll(outR); out <- string(b) }()
	go func() { b, _ := io.ReadAll(errR); errs <- string(b) }()
	reply, _, err := n.client.Exec(n.ctx, keeper.Exec{
		Target: keeper.Target{ID: id, ExecID: exec}, Process: process(n.t, args...), Stdout: true, Stderr: true, Wait: true,
	}, outW, errW)
	outW.Close()
	errW.Close()
	if err != nil {
		n.t.Fatal(err)
	}
	return *reply.Exit, <-out, <-errs
}

func TestExec(t *testing.T) {
	n := start(t)
	n.shell("a", "sleep 600")
	if _, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: keeper.Target{ID: "a", ExecID: "e"}, Process: process(t, "true"), Wait: true}); !errors.Is(err, keeper.ErrState) {
		t.Errorf("exec before start: %v, want ErrState", err)
	}
	n.start("a")
	exit, out, errs := n.exec("a", "e1", "sh", "-c", "echo out; echo err >&2; exit 3")
	if exit.Code != 3 || out != "out\n" || errs != "err\n" {
		t.Errorf("exit %+v, out %q, err %q", exit, out, errs)
	}
	if exit, _, _ := n.exec("a", "e1", "sh", "-c", "kill -9 $$"); exit.Code != 137 || exit.Signal != 9 {
		t.Errorf("killed: %+v", exit)
	}
	if _, out, _ := n.exec("a", "e1", "readlink", "/proc/1/ns/pid"); out != link(n.pidOf("a"), "pid")+"\n" {
		t.Errorf("PID namespace %q", out)
	}
	_, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: keeper.Target{ID: "a", ExecID: "e2"}, Process: process(t, "/no/such"), Wait: true})
	if err == nil || !strings.Contains(err.Error(), "/no/such") {
		t.Errorf("no such program: %v", err)
	}
	n.kill("a", 9)
	n.wait("a")
	if _, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: keeper.Target{ID: "a", ExecID: "e"}, Process: process(t, "true"), Wait: true}); !errors.Is(err, keeper.ErrState) {
		t.Errorf("exec after exit: %v, want ErrState", err)
	}
}

func TestExecsOverlap(t *testing.T) {
	n := start(t)
	n.shell("a", "sleep 600")
	n.start("a")
	done := make(chan string, 8)
	for i := range cap(done) {
		go func() {
			exit, out, _ := n.exec("a", "e"+itoa(i), "echo", itoa(i))
			done <- fmt.Sprint(exit.Code, strings.TrimSpace(out) == itoa(i))
		}()
	}
	for range cap(done) {
		if got := <-done; got != "0true" && got != "0 true" {
			t.Error(got)
		}
	}
}

func TestExecStdinAndWait(t *testing.T) {
	n := start(t)
	n.shell("a", "sleep 600")
	n.start("a")
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	target := keeper.Target{ID: "a", ExecID: "cat"}
	if _, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: target, Process: process(t, "cat"), Stdin: true, Stdout: true}, inR, outW); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	if _, err := inW.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	inW.Close()
	got, err := io.ReadAll(outR)
	if err != nil || string(got) != "hello" {
		t.Errorf("read %q, %v", got, err)
	}
	exit, err := n.client.Wait(n.ctx, target)
	if err != nil || exit.Code != 0 {
		t.Errorf("%+v, %v", exit, err)
	}
	if err := n.client.Kill(n.ctx, keeper.Kill{Target: target, Signal: 9, All: true}); !errors.Is(err, keeper.ErrState) {
		t.Errorf("kill after its end: %v, want ErrState", err)
	}
	target.ExecID = "none"
	if _, err := n.client.Wait(n.ctx, target); !errors.Is(err, keeper.ErrNotFound) {
		t.Errorf("wait for no exec: %v, want ErrNotFound", err)
	}
}

// The time-out of an exec: its whole family dies, whatever session its children have gone to.
func TestKillExec(t *testing.T) {
	n := start(t)
	n.shell("a", "sleep 600")
	n.start("a")
	outR, outW := pipe(t)
	target := keeper.Target{ID: "a", ExecID: "e"}
	script := "sleep 601 & setsid sleep 602 & echo ready; sleep 603"
	if _, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: target, Process: process(t, "sh", "-c", script), Stdout: true}, outW); err != nil {
		t.Fatal(err)
	}
	outW.Close()
	if line, err := bufio.NewReader(outR).ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	if err := n.client.Kill(n.ctx, keeper.Kill{Target: target, Signal: 9, All: true}); err != nil {
		t.Fatal(err)
	}
	if exit, err := n.client.Wait(n.ctx, target); err != nil || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
	// All writers of the pipe are gone.
	if _, err := io.ReadAll(outR); err != nil {
		t.Error(err)
	}
	if got := n.state("a").State; got != keeper.Running {
		t.Errorf("the container is %s", got)
	}
}

func TestExecTerminal(t *testing.T) {
	n := start(t)
	n.shell("a", "sleep 600")
	n.start("a")
	target := keeper.Target{ID: "a", ExecID: "tty"}
	_, master, err := n.client.Exec(n.ctx, keeper.Exec{Target: target, Process: ttyProcess(t, "sh"), TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	if err := n.client.Resize(n.ctx, keeper.Resize{Target: target, Width: 91, Height: 37}); err != nil {
		t.Fatal(err)
	}
	if _, err := master.WriteString("stty size\nexit 6\n"); err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(master) // ends with EIO
	if !strings.Contains(string(said), "37 91") {
		t.Errorf("terminal said %q", said)
	}
	if exit, err := n.client.Wait(n.ctx, target); err != nil || exit.Code != 6 {
		t.Errorf("%+v, %v", exit, err)
	}
}

// A client that goes away hangs the terminal up.
func TestExecTerminalHangsUp(t *testing.T) {
	n := start(t)
	n.shell("a", "sleep 600")
	n.start("a")
	target := keeper.Target{ID: "a", ExecID: "tty"}
	_, master, err := n.client.Exec(n.ctx, keeper.Exec{Target: target, Process: ttyProcess(t, "sleep", "600"), TTY: true})
	if err != nil {
		t.Fatal(err)
	}
	master.Close()
	if exit, err := n.client.Wait(n.ctx, target); err != nil || exit.Signal != int(unix.SIGHUP) {
		t.Errorf("%+v, %v", exit, err)
	}
}

func TestContainerTerminal(t *testing.T) {
	n := start(t)
	s := n.spec("a", "sh", "-c", "read x; stty size; echo got $x; exit 2")
	s.Process.Terminal = true
	req := n.request("a", s)
	req.TTY, req.Stdin = true, true
	n.create(req)
	if err := n.client.Resize(n.ctx, keeper.Resize{Target: keeper.Target{ID: "a"}, Width: 100, Height: 50}); err != nil {
		t.Fatal(err)
	}
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: "a", Stdin: true, Stdout: true}, inR, outW); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	n.start("a")
	if _, err := inW.WriteString("word\n"); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(outR)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"50 100", "got word"} {
		if !strings.Contains(string(said), want) {
			t.Errorf("attached peer read %q, want %q in it", said, want)
		}
		if got := n.log("a"); !strings.Contains(got, want) {
			t.Errorf("log %q, want %q in it", got, want)
		}
	}
	if exit := n.wait("a"); exit.Code != 2 {
		t.Errorf("exit %+v", exit)
	}
}

func TestAttach(t *testing.T) {
	n := start(t)
	req := n.request("a", n.spec("a", "sh", "-c", "while read x; do echo out $x; echo err $x >&2; done; echo end"))
	req.Stdin = true
	n.create(req)
	n.start("a")
	// A first peer comes and goes: stdin stays open without StdinOnce.
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	errR, errW := pipe(t)
	attach := keeper.Attach{ID: "a", Stdin: true, Stdout: true, Stderr: true}
	if err := n.client.Attach(n.ctx, attach, inR, outW, errW); err != nil {
		t.Fatal(err)
	}
	wire(inR, outW, errW)
	inW.WriteString("one\n")
	if got := readLine(t, outR); got != "out one\n" {
		t.Errorf("stdout %q", got)
	}
	if got := readLine(t, errR); got != "err one\n" {
		t.Errorf("stderr %q", got)
	}
	inW.Close()
	outR.Close()
	errR.Close()
	inR, inW = pipe(t)
	outR, outW = pipe(t)
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: "a", Stdin: true, Stdout: true}, inR, outW); err != nil {
		t.Fatal(err)
	}
	wire(inR, outW)
	inW.WriteString("two\n")
	if got := readLine(t, outR); got != "out two\n" {
		t.Errorf("stdout %q", got)
	}
	n.kill("a", 9)
	n.wait("a")
	if rest, err := io.ReadAll(outR); err != nil || len(rest) > 0 {
		t.Errorf("after exit %q, %v", rest, err)
	}
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: "a", Stdout: true}, outW); err == nil {
		t.Error("attached to an exited container")
	}
}

func wire(files ...*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func readLine(t testing.TB, f *os.File) string {
	t.Helper()
	f.SetReadDeadline(time.Now().Add(20 * time.Second))
	var line []byte
	b := make([]byte, 1)
	for {
		if _, err := f.Read(b); err != nil {
			t.Fatalf("after %q: %v", line, err)
		}
		line = append(line, b[0])
		if b[0] == '\n' {
			return string(line)
		}
	}
}

func TestStdinOnce(t *testing.T) {
	n := start(t)
	req := n.request("a", n.spec("a", "sh", "-c", "cat; echo end"))
	req.Stdin, req.StdinOnce = true, true
	n.create(req)
	n.start("a")
	inR, inW := pipe(t)
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: "a", Stdin: true}, inR); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	inW.WriteString("text\n")
	inW.Close()
	if exit := n.wait("a"); exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
	if got := n.log("a"); got != "stdout text\nstdout end\n" {
		t.Errorf("log %q", got)
	}
	n.shell("b", "cat; echo end")
	n.start("b")
	if exit := n.wait("b"); exit.Code != 0 { // its stdin is /dev/null
		t.Errorf("without stdin: %+v", exit)
	}
	inR, _ = pipe(t)
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: "b", Stdin: true}, inR); err == nil {
		t.Error("attached a stdin that was not asked for")
	}
}

// A peer that does not read is detached; it does not stop the container for ever.
func TestAttachedPeerStandsStill(t *testing.T) {
	n := start(t)
	n.shell("a", "dd if=/dev/zero bs=65536 count=64; echo done >&2")
	_, outW := pipe(t)
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: "a", Stdout: true}, outW); err != nil {
		t.Fatal(err)
	}
	n.start("a")
	if exit := n.wait("a"); exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
}

// The keeper lets go of a peer that closes its end, even if the container is silent.
func TestAttachedPeerGoes(t *testing.T) {
	n := start(t)
	n.shell("a", "sleep 600")
	n.start("a")
	fds := func() int {
		l, err := os.ReadDir(filepath.Join("/proc", itoa(n.pid), "fd"))
		if err != nil {
			t.Fatal(err)
		}
		return len(l)
	}
	before := fds()
	for range 10 {
		r, w := pipe(t)
		if err := n.client.Attach(n.ctx, keeper.Attach{ID: "a", Stdout: true}, w); err != nil {
			t.Fatal(err)
		}
		w.Close()
		r.Close()
	}
	until(t, "the keeper closed them", func() bool { return fds() <= before })
}
