package main

import (
	"bufio"
	"context"
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

// A process is at rest when it has taken less than restful of processor time within a period. It gives memory back once after
// it has worked for at least laborious.
const (
	period    = 10 * time.Second
	restful   = period / 100
	laborious = 50 * time.Millisecond
)

// thrifty makes this process take less memory: now, and whenever it comes to rest, as after its start or after many pods.
func thrifty(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	tick := time.NewTicker(period)
	defer tick.Stop()
	var r rest
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !r.begins(processorTime()) {
			continue
		}
		debug.FreeOSMemory()
		if err := unmapUnused(); err != nil {
			slog.Debug("keep what is not needed of the program mapped", "err", err)
		}
		r.given = processorTime()
	}
}

// rest remembers how much processor time had been used at the last look, and when memory was last given back.
type rest struct{ looked, given time.Duration }

// begins tells, once a period, whether memory is to be given back now.
func (r *rest) begins(used time.Duration) bool {
	calm := used-r.looked < restful
	r.looked = used
	return calm && used-r.given >= laborious
}

// processorTime is what this process has used so far.
func processorTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// unmapUnused lets go of the pages of this program's file. The start goes through most of them once, to initialise what each
// package has, and the kernel maps the neighbours of each that is touched as well. What is needed again is mapped again when it is, from
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
