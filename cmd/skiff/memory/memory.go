// Package memory keeps a process of skiff's small while it does little, and lets it have more memory while much work would
// otherwise go into collecting garbage.
//
// A daemon does little most of the time, so its memory counts more than its processor time. When many pods come and go at
// once time counts more: once several collections of garbage have followed each other quickly, the heap may grow to more until the
// process comes to rest and gives it back.
package memory

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Habits say what a process needs. All fields are required.
type Habits struct {
	// Percent is how much the heap may grow between two collections, and Busy how much during much work. Go's own default is 100.
	// GOGC in the environment overrules both.
	Percent, Busy int
	// Quickly is how soon a collection has to follow the one before, Several times in a row, to be a sign of much work.
	Quickly time.Duration
	Several int
	// Restful is the processor time within Period below which the process is at rest.
	Restful time.Duration
	// Laborious is the processor time after which it is worth it to give memory back at the next rest.
	Laborious time.Duration
}

// Period is how often a process is asked whether it is at rest.
const Period = 10 * time.Second

// Follow makes this process take less memory until ctx ends: now, and whenever it comes to rest, as after its start or after
// many pods.
func (h Habits) Follow(ctx context.Context) {
	p := pace{habits: h}
	if os.Getenv("GOGC") == "" {
		p.begin()
	}
	tick := time.NewTicker(Period)
	defer tick.Stop()
	r := rest{habits: h}
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !r.begins(processorTime()) {
			continue
		}
		p.calm()
		debug.FreeOSMemory()
		if err := unmapUnused(); err != nil {
			slog.Debug("keep what is not needed of the program mapped", "err", err)
		}
		r.given = processorTime()
	}
}

// pace is how much the heap may grow between collections.
type pace struct {
	habits  Habits
	mu      sync.Mutex
	percent int // 0 when it is not ours to say
	last    time.Time
	quick   int // collections that have followed the one before quickly, up to the last
}

// set lets the heap grow by so many percent. p.mu is held.
func (p *pace) set(percent int) {
	if p.percent != percent {
		p.percent = percent
		debug.SetGCPercent(percent)
	}
}

// begin takes charge.
func (p *pace) begin() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.set(p.habits.Percent)
	p.follow()
}

// calm ends what quick collections have begun.
func (p *pace) calm() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.percent != 0 {
		p.quick = 0
		p.set(p.habits.Percent)
	}
}

// follow has collected called after the next collection, which finds an object that nobody has.
func (p *pace) follow() {
	type straw struct{ _ [64]byte } // too large to share its memory with objects that live on
	runtime.AddCleanup(new(straw), func(p *pace) {
		p.collected(time.Now())
		p.follow()
	}, p)
}

// collected takes note of a collection.
func (p *pace) collected(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.quick++
	if now.Sub(p.last) >= p.habits.Quickly {
		p.quick = 0
	}
	if p.last = now; p.quick >= p.habits.Several {
		p.set(p.habits.Busy)
	}
}

// rest remembers how much processor time had been used at the last look, and when memory was last given back.
type rest struct {
	habits        Habits
	looked, given time.Duration
}

// begins tells, once a period, whether memory is to be given back now.
func (r *rest) begins(used time.Duration) bool {
	calm := used-r.looked < r.habits.Restful
	r.looked = used
	return calm && used-r.given >= r.habits.Laborious
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
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	list, err := asInFile(f, exe)
	if err != nil {
		return fmt.Errorf("read /proc/self/smaps: %w", err)
	}
	for _, m := range list {
		if _, _, e := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); e != 0 {
			return fmt.Errorf("madvise %x-%x: %w", m.from, m.to, e)
		}
	}
	return nil
}

// mapping is a range of addresses.
type mapping struct{ from, to uintptr }

// asInFile finds the mappings of the file that hold nothing but what is in the file. Those that can be written may hold more, and so
// may others: the linker has written to them before they were protected (relocations), or somebody who traces this process.
func asInFile(smaps io.Reader, file string) ([]mapping, error) {
	var list []mapping
	var now mapping
	ours := false
	lines := bufio.NewScanner(smaps)
	for lines.Scan() {
		first, rest, _ := strings.Cut(lines.Text(), " ")
		if first == "Anonymous:" {
			if ours && strings.TrimSpace(rest) == "0 kB" {
				list = append(list, now)
			}
			continue
		}
		if strings.HasSuffix(first, ":") {
			continue
		}
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &now.from, &now.to, &mode); err != nil {
			return nil, fmt.Errorf("%q: %w", lines.Text(), err)
		}
		ours = strings.HasSuffix(rest, " "+file) && !strings.Contains(mode, "w")
	}
	return list, lines.Err()
}
