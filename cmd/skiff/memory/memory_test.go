package memory

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"
)

var habits = Habits{Percent: 40, Busy: 100, Quickly: 500 * time.Millisecond, Several: 5, Restful: Period / 100, Laborious: 50 * time.Millisecond}

// TestUnmapUnused: less of the program's file is mapped afterwards, and the program goes on.
func TestUnmapUnused(t *testing.T) {
	before := fileKB(t)
	if err := unmapUnused(); err != nil {
		t.Fatal(err)
	}
	if after := fileKB(t); after >= before {
		t.Errorf("%d KB of files are mapped, before %d", after, before)
	}
}

// TestAsInFile: what the linker has written to, as in programs that can be loaded anywhere, is not let go of: it would be lost.
func TestAsInFile(t *testing.T) {
	const smaps = `00400000-00500000 r-xp 00000000 08:01 7                          /bin/k
Rss:                 800 kB
Anonymous:             0 kB
AnonHugePages:         0 kB
VmFlags: rd ex mr mw me
00500000-00600000 r--p 00100000 08:01 7                          /bin/k
Rss:                 800 kB
Anonymous:             12 kB
00600000-00700000 rw-p 00200000 08:01 7                          /bin/k
Anonymous:             0 kB
00700000-00800000 r--p 00000000 08:01 8                          /lib/k
Anonymous:             0 kB
c000000000-c000400000 rw-p 00000000 00:00 0 [anon: Go: heap]
Anonymous:             400 kB
`
	got, err := asInFile(strings.NewReader(smaps), "/bin/k")
	if err != nil || len(got) != 1 || got[0] != (mapping{0x400000, 0x500000}) {
		t.Errorf("%x, %v", got, err)
	}
}

// TestRest: memory is given back once after work, when the work is over.
func TestRest(t *testing.T) {
	r := rest{habits: habits}
	for i, tc := range []struct {
		used time.Duration
		want bool
	}{
		{300 * time.Millisecond, false}, // the start
		{310 * time.Millisecond, true},
		{330 * time.Millisecond, false}, // idle, and so little that it is not worth it
		{3 * time.Second, false},        // many pods
		{5 * time.Second, false},
		{5050 * time.Millisecond, true},
		{5060 * time.Millisecond, false},
	} {
		got := r.begins(tc.used)
		if got != tc.want {
			t.Errorf("look %d at %v: %v", i, tc.used, got)
		}
		if got {
			r.given = tc.used
		}
	}
}

func fileKB(t *testing.T) int {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(raw), "RssFile:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestPace: collections that follow each other habits.Quickly let the heap grow to more, until the process comes to rest.
func TestPace(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // no collections but those asked for
	p := pace{habits: habits}
	p.calm()
	if p.percent != 0 {
		t.Error("somebody else's choice was overruled")
	}
	p.set(habits.Percent)
	now := time.Now()
	for _, pause := range []time.Duration{habits.Quickly, habits.Quickly - 1} { // the second time they come habits.Quickly
		for range habits.Several {
			if now = now.Add(pause); p.percent != habits.Percent {
				t.Fatalf("%d %% too early, collections each %v", p.percent, pause)
			}
			p.collected(now)
		}
	}
	if now = now.Add(habits.Quickly); p.percent != habits.Busy {
		t.Errorf("much work: %d %%", p.percent)
	}
	if p.collected(now); p.percent != habits.Busy {
		t.Errorf("less work: %d %%", p.percent)
	}
	p.calm()
	for range habits.Several - 1 { // more than when memory is given back
		p.collected(now)
	}
	if p.percent != habits.Percent {
		t.Errorf("at rest: %d %%", p.percent)
	}
	p.begin()
	for late := time.Now().Add(10 * time.Second); ; {
		runtime.GC()
		p.mu.Lock()
		busy := p.percent == habits.Busy
		p.mu.Unlock()
		if busy {
			return
		}
		if time.Now().After(late) {
			t.Fatal("collections are not noticed")
		}
	}
}
