//go:build root

package keeper_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// A container with a terminal, and one with an open stdin, do not notice that their keeper is killed, and can be talked to
// through the next one.
func TestTerminalAndStdinOutliveTheKeeper(t *testing.T) {
	n := start(t)
	const script = "trap 'echo hangup; exit 1' HUP; while read x; do echo got $x; [ $x = end ] && exit 6; done; echo end of input; exit 2"
	tty := n.request("tty", n.spec("tty", "sh", "-c", script))
	tty.TTY, tty.Stdin = true, true
	s := n.spec("tty", "sh", "-c", script)
	s.Process.Terminal = true
	tty.Spec = n.request("tty", s).Spec
	n.create(tty)
	open := n.request("open", n.spec("open", "sh", "-c", script))
	open.Stdin = true
	n.create(open)
	for _, id := range []string{"tty", "open"} {
		n.start(id)
		n.say(id, "one")
		until(t, "it has heard", func() bool { return strings.Contains(n.log(id), "got one") })
	}
	for range 2 {
		n.killKeeper()
		n.launch()
	}
	for _, id := range []string{"tty", "open"} {
		if err := n.client.Resize(n.ctx, keeper.Resize{Target: keeper.Target{ID: id}, Width: 33, Height: 44}); (err == nil) != (id == "tty") {
			t.Errorf("resize %s: %v", id, err)
		}
		n.say(id, "end")
		if exit := n.wait(id); exit.Code != 6 {
			t.Errorf("%s: %+v, log\n%s", id, exit, n.log(id))
		}
		if got := n.log(id); !strings.Contains(got, "got end") || strings.Contains(got, "hangup") {
			t.Errorf("%s: log\n%s", id, got)
		}
	}
	if got := n.holders(); len(got) != 1 {
		t.Errorf("%d holders: %v", len(got), got)
	}
}

// With stdinOnce the end of the first peer's input is the end of stdin, also when a holder has it.
func TestStdinOnceEndsWithAHolder(t *testing.T) {
	n := start(t)
	req := n.request("a", n.spec("a", "sh", "-c", "cat; echo ended; exit 3"))
	req.Stdin, req.StdinOnce = true, true
	n.create(req)
	n.start("a")
	n.killKeeper()
	n.launch()
	n.say("a", "word")
	if exit := n.wait("a"); exit.Code != 3 {
		t.Errorf("%+v", exit)
	}
	if got := n.log("a"); got != "stdout word\nstdout ended\n" {
		t.Errorf("log %q", got)
	}
}

// What ends while there is no keeper ends with the code that it had.
func TestExitsWithoutAKeeper(t *testing.T) {
	n := start(t)
	gate := filepath.Join(n.dir, "gate")
	if err := os.Mkdir(gate, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, code := range []string{"0", "5", "77"} {
		s := n.spec(code, "sh", "-c", "while [ ! -e /gate/open ]; do sleep 0.01; done; echo bye; exit "+code)
		s.Mounts = append(s.Mounts, bind(gate, "/gate"))
		n.create(n.request(code, s))
		n.start(code)
	}
	n.killKeeper()
	if err := os.WriteFile(filepath.Join(gate, "open"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	until(t, "all have ended", func() bool { return len(n.processes()) == 0 })
	n.launch()
	for _, code := range []string{"0", "5", "77"} {
		exit := n.wait(code)
		if exit.Unknown && !kernelKeepsExitCodes(t) {
			t.Skip("this kernel keeps no exit codes (PIDFD_GET_INFO, Linux 6.15)")
		}
		if strconv.Itoa(exit.Code) != code || exit.Unknown {
			t.Errorf("%s: %+v", code, exit)
		}
		if got := n.log(code); got != "stdout bye\n" {
			t.Errorf("%s: log %q", code, got)
		}
	}
}

func kernelKeepsExitCodes(t *testing.T) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	major, rest, _ := strings.Cut(string(bytes.TrimRight(u.Release[:], "\x00")), ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, _ := strconv.Atoi(major)
	b, _ := strconv.Atoi(minor)
	return a > 6 || a == 6 && b >= 15
}

// Execs end with their keeper, since nobody can learn their end; what the container itself put into the background does not.
func TestExecsEndWithTheKeeper(t *testing.T) {
	n := start(t)
	s := n.spec("shared", "sh", "-c", "(sleep 601 &); sleep 602")
	s.Linux.Namespaces = s.Linux.Namespaces[1:] // the host's PID namespace
	n.create(n.request("shared", s))
	n.shell("own", "(sleep 601 &); sleep 602")
	for _, id := range []string{"own", "shared"} {
		n.start(id)
		target := keeper.Target{ID: id, ExecID: "e"}
		if _, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: target, Process: process(t, "sh", "-c", "sleep 700 & sleep 701")}); err != nil {
			t.Fatal(err)
		}
	}
	running := func() string {
		var all []string
		for _, pid := range n.processes() {
			text, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			if args := strings.Split(string(text), "\x00"); args[0] == "sleep" {
				all = append(all, args[1])
			}
		}
		return strings.Join(sorted(all), " ")
	}
	until(t, "all run", func() bool { return running() == "601 601 602 602 700 700 701 701" })
	n.killKeeper()
	n.launch()
	until(t, "the execs are gone", func() bool { return running() == "601 601 602 602" })
	if exit, out, _ := n.exec("own", "e", "echo", "again"); exit.Code != 0 || out != "again\n" {
		t.Errorf("exec afterwards: %+v, %q", exit, out)
	}
}

// holders are the processes that hold something for this keeper.
func (n *node) holders() []string {
	var out []string
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range paths {
		if text, _ := os.ReadFile(p); string(text) == "skiff-hold\x00"+n.run+"\x00" {
			out = append(out, filepath.Base(filepath.Dir(p)))
		}
	}
	return out
}

func bind(from, to string) specs.Mount {
	return specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"bind"}}
}

func sorted(list []string) []string {
	slices.Sort(list)
	return list
}

// say attaches, types a line and detaches.
func (n *node) say(id, line string) {
	n.t.Helper()
	inR, inW := pipe(n.t)
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: id, Stdin: true}, inR); err != nil {
		n.t.Fatal(err)
	}
	inR.Close()
	inW.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := inW.WriteString(line + "\n"); err != nil {
		n.t.Fatal(err)
	}
	inW.Close()
}
