//go:build root

package keeper_test

import (
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// The keeper is killed at random instants while clients make, exec into and remove containers. Afterwards every name
// can be used again, and when all are removed no process, cgroup or directory is left.
func TestKeeperIsKilledAtAnyInstant(t *testing.T) {
	n := start(t)
	const workers, kills = 3, 12
	stop := make(chan struct{})
	var work sync.WaitGroup
	for w := range workers {
		work.Go(func() {
			id := "w" + strconv.Itoa(w)
			for round := 0; ; round++ {
				select {
				case <-stop:
					return
				default:
				}
				n.clientDo(id, round)
			}
		})
	}
	for range kills {
		time.Sleep(time.Duration(rand.IntN(120)) * time.Millisecond) // an instant, not a wait
		n.replaceKeeper()
	}
	close(stop)
	work.Wait()
	for w := range workers {
		id := "w" + strconv.Itoa(w)
		n.forceAway(id)
		if exit, got := n.runToEnd(id, "echo whole"); exit.Code != 0 || !strings.HasSuffix(got, "stdout whole\n") {
			t.Errorf("%s afterwards: %+v, log %q", id, exit, got)
		}
		n.delete(id)
	}
	until(t, "no process is left", func() bool { return len(n.processes()) == 0 })
	for _, pattern := range []string{"/sys/fs/cgroup/*" + n.cgroup + "/w*", "/sys/fs/cgroup" + n.cgroup + "/w*"} {
		if left, _ := filepath.Glob(pattern); len(left) > 0 {
			t.Errorf("cgroups are left: %v", left)
		}
	}
}

// clientDo is one round of a client that takes whatever errors a dying keeper gives.
func (n *node) clientDo(id string, round int) {
	c := n.now()
	if _, err := c.Create(n.ctx, n.request(id, n.spec(id, "sleep", "600"))); errors.Is(err, keeper.ErrExists) {
		n.forceAway(id)
		return
	} else if err != nil {
		return
	}
	if _, err := c.Start(n.ctx, id); err != nil {
		return
	}
	target := keeper.Target{ID: id, ExecID: strconv.Itoa(round)}
	_, _, _ = c.Exec(n.ctx, keeper.Exec{Target: target, Process: process(n.t, "true"), Wait: true})
	n.forceAway(id)
}

// forceAway removes a container in whatever state it is.
func (n *node) forceAway(id string) {
	target := keeper.Target{ID: id}
	c := n.now()
	_ = c.Kill(n.ctx, keeper.Kill{Target: target, Signal: 9, All: true})
	if _, err := c.Wait(n.ctx, target); err != nil {
		return
	}
	_ = c.Delete(n.ctx, id)
}

var nowMu sync.Mutex

// now is the client of the keeper of this moment.
func (n *node) now() *keeper.Client {
	nowMu.Lock()
	defer nowMu.Unlock()
	return n.client
}

func (n *node) replaceKeeper() {
	n.t.Helper()
	if err := unix.Kill(n.pid, unix.SIGKILL); err != nil {
		n.t.Fatal(err)
	}
	until(n.t, "the keeper is gone", func() bool { return unix.Kill(n.pid, 0) != nil })
	nowMu.Lock()
	defer nowMu.Unlock()
	n.launch()
}

// processes are those in the cgroups of the test, but for the keeper.
func (n *node) processes() []string {
	var out []string
	holders := n.holders()
	files, _ := filepath.Glob("/sys/fs/cgroup/*" + n.cgroup + "/*/cgroup.procs")
	more, _ := filepath.Glob("/sys/fs/cgroup" + n.cgroup + "/*/cgroup.procs")
	for _, f := range append(files, more...) {
		text, _ := os.ReadFile(f)
		for pid := range strings.FieldsSeq(string(text)) {
			if pid != strconv.Itoa(n.pid) && !slices.Contains(holders, pid) && !slices.Contains(out, pid) {
				out = append(out, pid)
			}
		}
	}
	return out
}
