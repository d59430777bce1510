package cgroup

import (
	"os"
	"testing"
)

// TestHaste: it moves this process to where it is, or does nothing, and ends when it is told to.
func TestHaste(t *testing.T) {
	before, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Skip("the kernel has no cgroups")
	}
	h := NewHaste(Root{})
	for range 100 {
		h.Soon()
	}
	h.Close()
	h.Soon()
	if h.left != 0 {
		t.Errorf("%d moves are to come after Close", h.left)
	}
	if after, _ := os.ReadFile("/proc/self/cgroup"); string(after) != string(before) {
		t.Errorf("this process was in %s, and is in %s", before, after)
	}
	v2 := NewHaste(Root{V2: true})
	v2.Soon()
	if v2.left != 0 {
		t.Error("moves are made under v2")
	}
}

// TestHasteAmongManyStarts: while many containers are being started it moves nothing, and else it does.
func TestHasteAmongManyStarts(t *testing.T) {
	moves := 0
	h := NewHaste(Root{})
	h.move = func() error { moves++; return nil }
	var done []func()
	for range manyStarts {
		done = append(done, h.Start())
	}
	if err := h.once(); err != nil || moves != 0 {
		t.Errorf("%d moves among %d starts, err %v", moves, manyStarts, err)
	}
	done[0]()
	if err := h.once(); err != nil || moves != 1 {
		t.Errorf("%d moves among fewer starts, err %v", moves, err)
	}
}
