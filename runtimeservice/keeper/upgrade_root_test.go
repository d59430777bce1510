//go:build root

package keeper_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// secondBuild is another build of the keeper.
var secondBuild = sync.OnceValues(func() (string, error) {
	path := filepath.Join(filepath.Dir(rootfs), "skiff-keeper-second")
	build := exec.Command("go", "build", "-tags", "seccomp,netgo,osusergo", "-ldflags", "-s -w -X main.version=second", "-o", path, "github.com/skiff-node/skiff/cmd/skiff-keeper")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func second(t *testing.T) string {
	t.Helper()
	path, err := secondBuild()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func (n *node) upgrade(to string) keeper.Upgraded {
	n.t.Helper()
	got, err := n.client.Upgrade(n.ctx, to)
	if err != nil {
		n.t.Fatal(err)
	}
	return got
}

const counting = "i=0; while [ ! -e /tmp/stop ]; do echo $i; i=$((i+1)); done; exit 7"

// counts checks that a log has each number once, and returns how many.
func (n *node) counts(id string) int {
	n.t.Helper()
	line, next := "", 0
	for _, e := range n.entries(n.logPath(id)) {
		line += strings.TrimSuffix(string(e.Content), "\r")
		if e.Partial {
			continue
		}
		if line != strconv.Itoa(next) {
			n.t.Fatalf("log of %s: line %d is %q", id, next, line)
		}
		line, next = "", next+1
	}
	return next
}

func (n *node) stopCounting(id string) {
	n.t.Helper()
	// The container may end at once, and the shell with it.
	if exit, _, errs := n.exec(id, "stop", "sh", "-c", ": > /tmp/stop"); exit.Code != 0 && exit.Signal != int(unix.SIGKILL) {
		n.t.Fatalf("%+v %s", exit, errs)
	}
	if exit := n.wait(id); exit.Code != 7 || exit.Unknown {
		n.t.Errorf("%s: %+v", id, exit)
	}
}

// An upgrade goes unnoticed: by containers, execs, attached peers, those who wait, and followers of events.
func TestUpgrade(t *testing.T) {
	n := start(t)
	pid := n.pid
	n.shell("counter", counting)
	n.shell("brief", "sleep 0.2; exit 5")
	req := n.request("shell", n.spec("shell", "sh", "-c", "while read x; do echo got $x; [ $x = end ] && exit 6; done; exit 2"))
	req.Stdin = true
	n.create(req)
	for _, id := range []string{"counter", "shell", "brief"} {
		n.start(id)
	}
	events := make(chan keeper.Event, 100)
	go func() {
		defer close(events)
		for e, err := range n.client.Events(n.ctx, 0) {
			if err != nil {
				return
			}
			events <- e
		}
	}()
	waited := make(chan keeper.Exit, 2)
	for _, id := range []string{"shell", "brief"} {
		go func() {
			exit, err := n.client.Wait(n.ctx, keeper.Target{ID: id})
			if err != nil {
				t.Errorf("wait for %s: %v", id, err)
			}
			waited <- exit
		}()
	}
	outR, outW := pipe(t)
	inR, inW := pipe(t)
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: "shell", Stdin: true, Stdout: true}, inR, outW); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	peer := bufio.NewReader(outR)
	talk := func(word string) {
		t.Helper()
		fmt.Fprintln(inW, word)
		if line, err := peer.ReadString('\n'); err != nil || line != "got "+word+"\n" {
			t.Errorf("attached: %q, %v", line, err)
		}
	}
	talk("one")
	synced := make(chan string, 1)
	go func() {
		exit, out, _ := n.exec("counter", "sync", "sh", "-c", "echo a; sleep 0.5; echo b; exit 4")
		synced <- fmt.Sprint(exit.Code, " ", out)
	}()
	target := keeper.Target{ID: "counter", ExecID: "tty"}
	_, master, err := n.client.Exec(n.ctx, keeper.Exec{Target: target, TTY: true, Process: ttyProcess(t, "sh", "-c", "stty -echo; echo ready; read x; stty size; exit 8")})
	if err != nil {
		t.Fatal(err)
	}
	defer master.Close()
	terminal := bufio.NewReader(master)
	if line, err := terminal.ReadString('\n'); err != nil || strings.TrimSpace(line) != "ready" {
		t.Fatalf("%q, %v", line, err)
	}
	until(t, "the exec runs", func() bool {
		return n.client.Kill(n.ctx, keeper.Kill{Target: keeper.Target{ID: "counter", ExecID: "sync"}}) == nil
	})

	if got := n.upgrade(second(t)); got.Build != "second" {
		t.Errorf("upgraded to %+v", got)
	}
	hello, err := n.client.Hello(n.ctx)
	if err != nil || hello.Pid != pid || hello.Build != "second" {
		t.Fatalf("%+v, %v, want pid %d", hello, err, pid)
	}
	if stale, err := keeper.Stale(n.ctx, n.client, second(t)); err != nil || stale {
		t.Errorf("stale %v, %v", stale, err)
	}
	if stale, err := keeper.Stale(n.ctx, n.client, binary); err != nil || !stale {
		t.Errorf("compared with the first build: stale %v, %v", stale, err)
	}
	talk("two")
	if got := <-synced; got != "4 a\nb\n" {
		t.Errorf("exec across the upgrade: %q", got)
	}
	if err := n.client.Resize(n.ctx, keeper.Resize{Target: target, Width: 33, Height: 44}); err != nil {
		t.Errorf("resize: %v", err)
	}
	fmt.Fprintln(master, "go on")
	if line, err := terminal.ReadString('\n'); err != nil || strings.TrimSpace(line) != "44 33" {
		t.Errorf("size %q, %v", line, err)
	}
	if exit, err := n.client.Wait(n.ctx, target); err != nil || exit.Code != 8 {
		t.Errorf("exec with a terminal: %+v, %v", exit, err)
	}
	n.upgrade(binary) // and back
	talk("three")
	fmt.Fprintln(inW, "end")
	if a, b := (<-waited).Code, (<-waited).Code; a+b != 11 {
		t.Errorf("waited for %d and %d", a, b)
	}
	n.stopCounting("counter")
	if got := n.counts("counter"); got < 10 {
		t.Errorf("%d lines", got)
	}
	seen := ""
	for seq := uint64(1); seq <= 9; seq++ { // 3 times created, running, exited
		e := <-events
		if e.Seq != seq {
			t.Fatalf("event %d, want %d", e.Seq, seq)
		}
		seen += string(e.State[0])
	}
	if strings.Count(seen, "c") != 3 || strings.Count(seen, "r") != 3 || strings.Count(seen, "e") != 3 {
		t.Errorf("events %s", seen)
	}
}

// Many upgrades under load lose no byte: neither of logs, nor of what an attached peer gets and gives.
func TestUpgradesUnderLoad(t *testing.T) {
	n := start(t)
	n.shell("counter", counting)
	s := n.spec("tty", "sh", "-c", counting)
	s.Process.Terminal = true
	req := n.request("tty", s)
	req.TTY = true
	n.create(req)
	cat := n.request("cat", n.spec("cat", "cat"))
	cat.Stdin, cat.StdinOnce, cat.LogPath = true, true, ""
	n.create(cat)
	for _, id := range []string{"counter", "tty", "cat"} {
		n.start(id)
	}
	inR, inW := pipe(t)
	outR, outW := pipe(t)
	if err := n.client.Attach(n.ctx, keeper.Attach{ID: "cat", Stdin: true, Stdout: true}, inR, outW); err != nil {
		t.Fatal(err)
	}
	inR.Close()
	outW.Close()
	stop := make(chan struct{})
	var peers sync.WaitGroup
	written, read := 0, 0
	peers.Go(func() {
		defer inW.Close()
		for {
			select {
			case <-stop:
				return
			default:
				fmt.Fprintln(inW, written)
				written++
			}
		}
	})
	peers.Go(func() {
		for lines := bufio.NewScanner(outR); lines.Scan(); read++ {
			if lines.Text() != strconv.Itoa(read) {
				t.Errorf("line %d is %q", read, lines.Text())
				return
			}
		}
	})
	for i := range 20 {
		n.upgrade([]string{second(t), binary}[i%2])
		if exit, out, _ := n.exec("counter", "e", "echo", itoa(i)); exit.Code != 0 || out != itoa(i)+"\n" {
			t.Errorf("exec: %+v, %q", exit, out)
		}
	}
	close(stop)
	peers.Wait()
	if written != read || read == 0 {
		t.Errorf("%d lines written, %d read", written, read)
	}
	if exit := n.wait("cat"); exit.Code != 0 {
		t.Errorf("cat: %+v", exit)
	}
	for _, id := range []string{"counter", "tty"} {
		n.stopCounting(id)
		if n.counts(id) == 0 {
			t.Errorf("%s: no lines", id)
		}
	}
}

// A binary that cannot take over leaves the old keeper as it was.
func TestUpgradeRefused(t *testing.T) {
	n := start(t)
	n.shell("counter", counting)
	n.start("counter")
	script := func(name, text string) string {
		path := filepath.Join(n.dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const fine = `echo '{"major":1,"minor":1,"version":1}'`
	for name, tc := range map[string]struct{ path, want string }{
		"no program":              {"/etc/passwd", "ask it what it is"},
		"another program":         {"/bin/true", "it says"},
		"one that fails":          {script("fails", "echo no such luck >&2; exit 1"), "no such luck"},
		"of another protocol":     {script("major", `echo '{"major":2,"version":1}'`), "speaks protocol 2"},
		"that reads no state":     {script("stateless", `echo '{"major":1}'`), "reads state of version 0"},
		"that refuses this state": {script("picky", fine+`; [ -z "$2" ] || { echo cannot read it >&2; exit 1; }`), "cannot read it"},
	} {
		if _, err := n.client.Upgrade(n.ctx, tc.path); !errors.Is(err, keeper.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want ErrInvalid with %q", name, err, tc.want)
		}
	}
	if hello, err := n.client.Hello(n.ctx); err != nil || hello.Pid != n.pid || hello.Build != "unknown" {
		t.Errorf("afterwards: %+v, %v", hello, err)
	}
	n.upgrade(second(t))
	n.stopCounting("counter")
	n.counts("counter")
}

// The new keeper is killed at any instant of an upgrade, or dies by itself: it is a lost keeper like any other.
func TestKilledWhileUpgrading(t *testing.T) {
	n := start(t)
	s := n.spec("tty", "sh", "-c", "while read x; do echo got $x; [ $x = end ] && exit 6; done; exit 2")
	s.Process.Terminal = true
	req := n.request("tty", s)
	req.TTY, req.Stdin = true, true
	n.create(req)
	n.start("tty")
	n.shell("counter", "i=0; while [ ! -e /tmp/stop ]; do echo $i; i=$((i+1)); sleep 0.001; done; exit 7")
	n.start("counter")
	builds := []string{second(t), binary}
	for i := range 15 {
		upgraded := make(chan struct{})
		go func(c *keeper.Client) {
			defer close(upgraded)
			_, _ = c.Upgrade(n.ctx, builds[i%2])
		}(n.client)
		time.Sleep(time.Duration(rand.IntN(80)) * time.Millisecond) // an instant, not a wait
		if err := unix.Kill(n.pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-upgraded
		n.client.Close()
		until(t, "the keeper is gone", func() bool { return unix.Kill(n.pid, 0) != nil })
		n.launch()
	}
	n.say("tty", "end")
	if exit := n.wait("tty"); exit.Code != 6 {
		t.Errorf("tty: %+v, log\n%s", exit, n.log("tty"))
	}
	n.stopCounting("counter")
	if n.counts("counter") == 0 {
		t.Error("no lines")
	}
}

// A client that takes over finds nothing under way for the one before it, and no execs.
func TestTakeOver(t *testing.T) {
	n := start(t)
	n.shell("a", "sleep 600")
	n.start("a")
	r, w := pipe(t)
	target := keeper.Target{ID: "a", ExecID: "e"}
	if _, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: target, Process: process(t, "sh", "-c", "sleep 700 & sleep 701"), Stdout: true}, w); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := n.client.TakeOver(n.ctx); err != nil {
		t.Fatal(err)
	}
	if exit, err := n.client.Wait(n.ctx, target); err != nil || exit.Code != 137 {
		t.Errorf("%+v, %v", exit, err)
	}
	if _, err := io.ReadAll(r); err != nil { // all that held it are gone
		t.Error(err)
	}
	if got := n.state("a"); got.State != keeper.Running {
		t.Errorf("the container: %+v", got)
	}

	// A create that takes its time: a foreign runtime that waits, and fails.
	gate := filepath.Join(n.dir, "gate")
	slow := filepath.Join(n.dir, "slow")
	if err := os.WriteFile(slow, []byte("#!/bin/sh\ncase \"$*\" in *delete*) exit 0;; esac\n: > "+gate+".begun\nwhile [ ! -e "+gate+" ]; do sleep 0.01; done; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	req := n.request("slow", n.spec("slow", "true"))
	req.Runtime = keeper.Runtime{Handler: "slow", Path: slow}
	created := make(chan error, 1)
	go func() {
		_, err := n.client.Create(n.ctx, req)
		created <- err
	}()
	until(t, "the runtime is called", func() bool { _, err := os.Stat(gate + ".begun"); return err == nil })
	took := make(chan error, 1)
	go func() { took <- n.client.TakeOver(n.ctx) }()
	n.state("a") // others are served meanwhile
	select {
	case err := <-took:
		t.Errorf("took over while a call was under way: %v", err)
	default:
	}
	if err := os.WriteFile(gate, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := <-took; err != nil {
		t.Error(err)
	}
	if err := <-created; err == nil {
		t.Error("created by a runtime that fails")
	}
}
