//go:build root

package keeper_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

func TestLife(t *testing.T) {
	n := start(t)
	n.shell("a", "echo out; echo err >&2; exit 7")
	if got := n.state("a"); got.State != keeper.Created || got.Pid == 0 || got.CreatedAt.IsZero() {
		t.Errorf("after create: %+v", got)
	}
	if err := n.client.Delete(n.ctx, "a"); !errors.Is(err, keeper.ErrState) {
		t.Errorf("delete of a created container: %v, want ErrState", err)
	}
	if _, err := n.client.Create(n.ctx, n.request("a", n.spec("a", "true"))); !errors.Is(err, keeper.ErrExists) {
		t.Errorf("second create: %v, want ErrExists", err)
	}
	n.start("a")
	if exit := n.wait("a"); exit.Code != 7 || exit.Signal != 0 || exit.OOMKilled || exit.Unknown || exit.At.IsZero() {
		t.Errorf("exit %+v", exit)
	}
	got := n.log("a")
	if !strings.Contains(got, "stdout out\n") || !strings.Contains(got, "stderr err\n") {
		t.Errorf("log\n%s", got)
	}
	if _, err := n.client.Start(n.ctx, "a"); !errors.Is(err, keeper.ErrState) {
		t.Errorf("start after exit: %v, want ErrState", err)
	}
	if err := n.client.Kill(n.ctx, keeper.Kill{Target: keeper.Target{ID: "a"}, Signal: 9}); !errors.Is(err, keeper.ErrState) {
		t.Errorf("kill after exit: %v, want ErrState", err)
	}
	n.delete("a")
	if err := n.client.Delete(n.ctx, "a"); !errors.Is(err, keeper.ErrNotFound) {
		t.Errorf("second delete: %v, want ErrNotFound", err)
	}
	if left, _ := os.ReadDir("/sys/fs/cgroup/memory" + n.cgroup); len(left) > 0 {
		for _, e := range left {
			if e.Name() == "a" {
				t.Error("the container's cgroup is left")
			}
		}
	}
	// The name is free again.
	if exit, _ := n.runToEnd("a", "true"); exit.Code != 0 {
		t.Errorf("exit %+v", exit)
	}
}

func TestKill(t *testing.T) {
	n := start(t)
	for _, tc := range []struct {
		name, script string
		signal, code int
	}{
		{"term", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.01; done", 15, 3},
		{"kill", "echo ready; sleep 600", 9, 137},
	} {
		n.shell(tc.name, tc.script)
		n.start(tc.name)
		until(t, "ready", func() bool { return strings.Contains(n.log(tc.name), "ready") })
		n.kill(tc.name, tc.signal)
		if exit := n.wait(tc.name); exit.Code != tc.code {
			t.Errorf("%s: %+v, want %d", tc.name, exit, tc.code)
		}
	}
	n.shell("created", "echo never")
	n.kill("created", 15)
	if exit := n.wait("created"); exit.Code != 137 {
		t.Errorf("created: %+v", exit)
	}
	if _, err := n.client.Start(n.ctx, "created"); !errors.Is(err, keeper.ErrState) {
		t.Errorf("start of a killed container: %v, want ErrState", err)
	}
	if got := n.log("created"); got != "" {
		t.Errorf("log %q", got)
	}
}

func TestBadCreateLeavesNothing(t *testing.T) {
	n := start(t)
	for name, change := range map[string]func(*keeper.Create){
		"no such program": func(r *keeper.Create) { *r = n.request("x", n.spec("x", "/no/such")) },
		"no root": func(r *keeper.Create) {
			s := n.spec("x", "true")
			s.Root.Path = "/no/such/root"
			*r = n.request("x", s)
		},
		"no json":   func(r *keeper.Create) { r.Spec = []byte(`"x"`) },
		"no args":   func(r *keeper.Create) { *r = n.request("x", n.spec("x")) },
		"bad id":    func(r *keeper.Create) { r.ID = "../x" },
		"empty id":  func(r *keeper.Create) { r.ID = "" },
		"log a dir": func(r *keeper.Create) { r.LogPath = n.dir },
	} {
		req := n.request("x", n.spec("x", "true"))
		change(&req)
		if _, err := n.client.Create(n.ctx, req); err == nil {
			t.Errorf("%s: created", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
	n.shell("x", "true")
}

// Events arrive once each and in order, also those of the time when the client was away.
func TestEventsAreReplayed(t *testing.T) {
	n := start(t)
	n.shell("a", "exit 5")
	n.start("a")
	n.wait("a")
	n.delete("a")
	n.client.Close()
	n.launch() // finds the living keeper
	n.shell("b", "true")
	var got []string
	last := uint64(0)
	for e, err := range n.client.Events(n.ctx, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if e.Seq != last+1 {
			t.Errorf("seq %d after %d", e.Seq, last)
		}
		last = e.Seq
		got = append(got, e.ID+":"+string(e.State))
		if e.ID == "a" && e.State == keeper.Exited && (e.Exit == nil || e.Exit.Code != 5) {
			t.Errorf("exit in event: %+v", e.Exit)
		}
		if last == 5 {
			go n.client.Start(n.ctx, "b") // live from here on
		}
		if last == 7 {
			break
		}
	}
	want := "a:created a:running a:exited a: b:created b:running b:exited"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	list, err := n.client.List(n.ctx)
	if err != nil || list.Seq != 7 || len(list.Containers) != 1 {
		t.Errorf("list %+v, %v", list, err)
	}
}

// The keeper outlives its clients; a second one does not start beside it.
func TestAdopt(t *testing.T) {
	n := start(t)
	pid := n.pid
	n.shell("a", "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done")
	n.start("a")
	init := n.pidOf("a")
	n.client.Close()
	before := len(n.entries(n.logPath("a")))
	until(t, "the log grows with nobody connected", func() bool { return len(n.entries(n.logPath("a"))) > before+3 })
	n.launch()
	if n.pid != pid || n.pidOf("a") != init {
		t.Errorf("keeper %d, was %d; init %d, was %d", n.pid, pid, n.pidOf("a"), init)
	}
	n.kill("a", 9)
	n.wait("a")
	for i, e := range n.entries(n.logPath("a")) {
		if want := itoa(i); string(e.Content) != want {
			t.Fatalf("line %d: %q", i, e.Content)
		}
	}
}

// A keeper that is killed leaves running containers, and the next one finds them.
func TestKeeperIsKilled(t *testing.T) {
	n := start(t)
	n.shell("counter", "i=0; while [ $i -lt 100000 ]; do echo $i; i=$((i+1)); sleep 0.005; done")
	n.start("counter")
	n.shell("created", "true")
	init := n.pidOf("counter")
	until(t, "it counts", func() bool { return len(n.entries(n.logPath("counter"))) > 3 })
	n.killKeeper()
	n.launch()
	if now := n.pidOf("counter"); now != init {
		t.Fatalf("init is %d, was %d", now, init)
	}
	before := len(n.entries(n.logPath("counter")))
	until(t, "the log goes on", func() bool { return len(n.entries(n.logPath("counter"))) > before+3 })
	for i, e := range n.entries(n.logPath("counter")) {
		if want := itoa(i); string(e.Content) != want {
			t.Fatalf("line %d: %q", i, e.Content)
		}
	}
	n.kill("counter", 9)
	exit := n.wait("counter")
	t.Logf("exit %+v", exit)
	if exit.Code != 137 && !exit.Unknown {
		t.Errorf("exit %+v", exit)
	}
	n.start("created")
	n.wait("created")
}

func (n *node) state(id string) keeper.Container {
	n.t.Helper()
	list, err := n.client.List(n.ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, c := range list.Containers {
		if c.ID == id {
			return c
		}
	}
	return keeper.Container{}
}

// A keeper is killed after it has let an init go on, and before it wrote that down: the next one knows that the program
// runs. One that was not let go on can still be started.
func TestStartIsNoticed(t *testing.T) {
	n := start(t)
	fifo := func(id string) string { return filepath.Join(n.run, "runc", id, "exec.fifo") }
	for id, script := range map[string]string{"runs": "sleep 600", "waits": "exit 3"} {
		n.shell(id, script)
		if id == "waits" {
			continue
		}
		f, err := os.Open(fifo(id)) // as the keeper does
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	n.killKeeper()
	n.launch()
	if got := n.state("runs"); got.State != keeper.Running || got.StartedAt.IsZero() {
		t.Errorf("the one that runs: %+v", got)
	}
	if got := n.state("waits"); got.State != keeper.Created {
		t.Errorf("the one that waits: %+v", got)
	}
	n.start("waits")
	if exit := n.wait("waits"); exit.Code != 3 {
		t.Errorf("the one that waited: %+v", exit)
	}
}
