//go:build root

package keeper_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// Many containers at once, made by several clients: none disturbs another, and when they are gone the keeper holds
// nothing of them.
func TestMany(t *testing.T) {
	n := start(t)
	exit, _ := n.runToEnd("warm", "true")
	if exit.Code != 0 {
		t.Fatal(exit)
	}
	n.delete("warm")
	const many = 40
	before := n.usage()
	var work sync.WaitGroup
	limit := make(chan struct{}, 8)
	for i := range many {
		work.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			id := "c" + strconv.Itoa(i)
			if _, err := n.client.Create(n.ctx, n.request(id, n.spec(id, "sh", "-c", "echo "+id+"; sleep 600"))); err != nil {
				t.Error(err)
				return
			}
			if _, err := n.client.Start(n.ctx, id); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	for i := range many {
		id := "c" + strconv.Itoa(i)
		until(t, id+" speaks", func() bool { return n.log(id) == "stdout "+id+"\n" })
	}
	during := n.usage()
	t.Logf("keeper: %d kB private, %d threads, %d fds; with %d containers %d kB, %d threads, %d fds", before.private, before.threads, before.fds, many, during.private, during.threads, during.fds)
	for i := range many {
		work.Go(func() {
			limit <- struct{}{}
			defer func() { <-limit }()
			id := "c" + strconv.Itoa(i)
			if err := n.client.Kill(n.ctx, keeper.Kill{Target: keeper.Target{ID: id}, Signal: 9}); err != nil {
				t.Error(err)
				return
			}
			if exit, err := n.client.Wait(n.ctx, keeper.Target{ID: id}); err != nil || exit.Code != 137 {
				t.Error(id, exit, err)
			}
			if err := n.client.Delete(n.ctx, id); err != nil {
				t.Error(err)
			}
		})
	}
	work.Wait()
	// Connections of the client may be open, so a few descriptors more than before are no leak. Those that libcontainer
	// drops are closed when they are collected.
	until(t, "descriptors are closed", func() bool {
		if exit, _ := n.runToEnd("again", "true"); exit.Code != 0 {
			t.Fatal(exit)
		}
		n.delete("again")
		return n.usage().fds <= before.fds+16
	})
	after := n.usage()
	t.Logf("after: %d kB private, %d threads, %d fds", after.private, after.threads, after.fds)
}

type usage struct{ private, threads, fds int }

func (n *node) usage() usage {
	n.t.Helper()
	var u usage
	fds, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(n.pid), "fd"))
	if err != nil {
		n.t.Fatal(err)
	}
	u.fds = len(fds)
	tasks, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(n.pid), "task"))
	if err != nil {
		n.t.Fatal(err)
	}
	u.threads = len(tasks)
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(n.pid), "smaps_rollup"))
	if err != nil {
		n.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 3 && strings.HasPrefix(f[0], "Private_") {
			kb, _ := strconv.Atoi(f[1])
			u.private += kb
		}
	}
	return u
}
