package lifecycle

import (
	"errors"
	"testing"
)

var (
	phases = []Phase{Creating, Ready, Stopping, Stopped, Created, Running, Exited, Removing}
	events = []Event{Made, Fail, Stop, Halted, Started, Ended, Remove}
)

// TestEveryPair tries each event in each phase: what the drawing does not show is refused.
func TestEveryPair(t *testing.T) {
	for name, tc := range map[string]struct {
		machine Machine
		allowed int
	}{
		"sandbox":   {Sandbox(), 12},
		"container": {Container(), 16},
	} {
		allowed := 0
		for _, p := range phases {
			for _, e := range events {
				next, err := tc.machine.Next(p, e)
				var refused Refused
				switch {
				case err == nil:
					allowed++
				case !errors.As(err, &refused) || next != p:
					t.Errorf("%s: %s in %s: next %s, error %v", name, e, p, next, err)
				}
			}
		}
		if allowed != tc.allowed {
			t.Errorf("%s: %d moves are possible, want %d", name, allowed, tc.allowed)
		}
	}
}

func TestNothingLeavesRemoving(t *testing.T) {
	for _, m := range []Machine{Sandbox(), Container()} {
		for e, next := range m[Removing] {
			if next != Removing {
				t.Errorf("%s leads from removing to %s", e, next)
			}
		}
	}
}

// TestReplay feeds a journal twice over: the end is the same.
func TestReplay(t *testing.T) {
	p := Created
	for _, e := range []Event{Started, Ended, Started, Ended} {
		next, err := Container().Next(p, e)
		if err != nil {
			t.Fatalf("%s in %s: %v", e, p, err)
		}
		p = next
	}
	if p != Exited {
		t.Fatalf("phase is %s", p)
	}
}
