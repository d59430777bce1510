package cgroup

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Haste takes the kernel's wait out of the way of the next container start under cgroup v1.
//
// Moving a process to a cgroup takes the lock cgroup_threadgroup_rwsem of the whole machine for writing. When nobody has
// done so for some milliseconds, that first waits for an RCU grace period, 4 to 15 ms on an idle machine; for about as
// long afterwards it is free (kernel/rcu/sync.c). A start of a container moves its init once in each hierarchy, so every
// start on a node with little to do pays one such wait. Soon pays it beforehand, beside the making of the sandbox, and
// keeps the way free until the start has come, by moving this process to where it is.
//
// Under v2 an init is cloned into its cgroup, and none of this is needed. Nor is it while many containers are being started:
// their own moves keep the way free.
type Haste struct {
	off  bool
	mu   sync.Mutex
	left int // moves to come, 0: nobody makes them
	wait sync.WaitGroup

	starts atomic.Int32 // under way
	move   func() error // stay, or a test's
}

// The way is kept free for hasteMoves times hasteEvery, which is longer than the calls of a pod take and shorter than what
// would be a load: a move takes 50 µs.
const (
	hasteMoves = 12
	hasteEvery = 3 * time.Millisecond
	// manyStarts at once move an init every few milliseconds: each does so in a dozen hierarchies.
	manyStarts = 3
)

// NewHaste returns one that does nothing where there is nothing to do.
func NewHaste(r Root) *Haste { return &Haste{off: r.V2, move: stay} }

// Soon says that a container will be started soon. It returns at once.
func (h *Haste) Soon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off {
		return
	}
	if h.left == 0 {
		h.wait.Go(h.moves)
	}
	h.left = hasteMoves
}

// Start says that a container is being started, until done is called.
func (h *Haste) Start() (done func()) {
	h.starts.Add(1)
	return func() { h.starts.Add(-1) }
}

// Close waits until no more moves are made.
func (h *Haste) Close() {
	h.mu.Lock()
	h.off = true
	h.mu.Unlock()
	h.wait.Wait()
}

func (h *Haste) moves() {
	for h.more() {
		if err := h.once(); err != nil {
			h.mu.Lock()
			h.off, h.left = true, 0 // it only saves time
			h.mu.Unlock()
			return
		}
		time.Sleep(hasteEvery)
	}
}

func (h *Haste) once() error {
	if h.starts.Load() >= manyStarts {
		return nil
	}
	return h.move()
}

func (h *Haste) more() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off || h.left == 0 {
		h.left = 0
		return false
	}
	h.left--
	return h.left > 0
}

// stay moves this process to the cgroup in which it is, in one hierarchy.
func stay() error {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 || parts[1] != "pids" {
			continue
		}
		return os.WriteFile(filepath.Join("/sys/fs/cgroup/pids", parts[2], "cgroup.procs"), []byte("0"), 0)
	}
	return errors.New("no hierarchy of pids")
}
