package cgroup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Freeze stops all processes of a cgroup, and returns when they are stopped.
func (r Root) Freeze(ctx context.Context, cgroup string) error { return r.freezer(ctx, cgroup, true) }

// Thaw lets them go on. Thawing what is gone succeeds.
func (r Root) Thaw(ctx context.Context, cgroup string) error {
	if !r.Exists(cgroup) {
		return nil
	}
	return r.freezer(ctx, cgroup, false)
}

func (r Root) freezer(ctx context.Context, cgroup string, frozen bool) error {
	dir := r.Controller("freezer", cgroup)
	file, word := filepath.Join(dir, "freezer.state"), map[bool]string{true: "FROZEN", false: "THAWED"}[frozen]
	state, want := file, word
	if r.V2 {
		file, word = filepath.Join(dir, "cgroup.freeze"), map[bool]string{true: "1", false: "0"}[frozen]
		state, want = filepath.Join(dir, "cgroup.events"), "frozen "+word
	}
	for {
		// Under v1 the write is repeated: a process that was being made may have come too late for the first.
		if err := os.WriteFile(file, []byte(word), 0); err != nil {
			return fmt.Errorf("freezer of cgroup %s: %w", cgroup, err)
		}
		text, err := os.ReadFile(state)
		if err != nil {
			return fmt.Errorf("freezer of cgroup %s: %w", cgroup, err)
		}
		for line := range strings.Lines(string(text)) {
			if strings.TrimSpace(line) == want {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("freezer of cgroup %s: it is not %s: %w", cgroup, strings.ToLower(word), ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}
