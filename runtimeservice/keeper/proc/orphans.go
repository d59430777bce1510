package proc

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// orphanGrace is how long an unknown child that has exited is left to whoever may be waiting for it.
const orphanGrace = 2 * time.Second

// ReapOrphans makes this process the parent of the orphans below it (a child subreaper), and reaps them until the context
// ends. libcontainer and os/exec wait for children of their own, within milliseconds; so only a child that was a zombie
// twice, a grace apart, is taken for an orphan. Those for which own says so are left alone; those that are expected are
// reaped at once. With no such function none are, and no child's end has the process looked for.
func ReapOrphans(ctx context.Context, own, expected func(pid int) bool) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become child subreaper: %w", err)
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGCHLD)
	defer signal.Stop(signals)
	var seen map[int]bool
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-signals:
			if expected != nil {
				reapExpected(own, expected)
			}
			if again == nil {
				again = time.After(orphanGrace)
			}
		case <-again:
			again = nil
			if seen = reapAgain(seen, own); len(seen) > 0 {
				again = time.After(orphanGrace)
			}
		}
	}
}

// reapExpected reaps the zombies that are expected.
func reapExpected(own, expected func(pid int) bool) {
	for _, pid := range zombies() {
		if expected(pid) && !own(pid) {
			var ws unix.WaitStatus
			_, _ = unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		}
	}
}

// reapAgain looks for children of ours that have exited and that nobody reaps: those that were such zombies at the last
// look, and are still, are reaped. It returns the zombies for the next look. Own children are left alone.
func reapAgain(last map[int]bool, own func(pid int) bool) map[int]bool {
	again := map[int]bool{}
	for _, pid := range zombies() {
		switch {
		case own(pid):
		case last[pid]:
			var ws unix.WaitStatus
			_, _ = unix.Wait4(pid, &ws, unix.WNOHANG, nil)
		default:
			again[pid] = true
		}
	}
	return again
}

// zombies are the children of this process that have exited and are not reaped.
func zombies() []int {
	var out []int
	tasks, _ := os.ReadDir("/proc/self/task")
	for _, t := range tasks {
		text, err := os.ReadFile("/proc/self/task/" + t.Name() + "/children")
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(text)) {
			if pid, err := strconv.Atoi(field); err == nil && Zombie(pid) {
				out = append(out, pid)
			}
		}
	}
	return out
}
