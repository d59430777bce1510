package main

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// A kubelet is on every node and does little most of the time, so its memory counts more than its processor time: garbage is
// collected when the heap has grown by two fifths (Go's default: by as much again). GOGC in the environment overrules it.
const gcPercent = 40

// startIsOver is when the kubelet is taken to have started: nothing waits for it, and being early or late only costs page faults.
const startIsOver = 10 * time.Second

// thrifty makes this process take less memory, now and when it has started.
func thrifty() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	time.AfterFunc(startIsOver, func() {
		if err := unmapUnused(); err != nil {
			slog.Debug("keep what only the start needed of the program mapped", "err", err)
		}
	})
}

// unmapUnused lets go of the pages of this program's file. The start goes through most of them once, to initialise what each
// package has, and the kernel maps the neighbours of each as well. What is needed again is mapped again when it is, from
// the page cache; what is not can be reclaimed like any other file's.
func unmapUnused() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/maps")
	if err != nil {
		return err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var from, to uintptr
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return fmt.Errorf("read /proc/self/maps: %q: %w", lines.Text(), err)
		}
		if !strings.HasSuffix(lines.Text(), " "+exe) || strings.Contains(mode, "w") {
			continue // only what is never written is as good in the file
		}
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); e != 0 {
			return fmt.Errorf("madvise %s: %w", lines.Text(), e)
		}
	}
	return lines.Err()
}
