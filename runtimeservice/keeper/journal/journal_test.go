package journal

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

func reopen(t *testing.T, path string) *Journal {
	t.Helper()
	j, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.Close() })
	return j
}

func TestJournalSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := reopen(t, path)
	for i := range 3 {
		if err := j.Publish(keeper.Event{ID: fmt.Sprint(i), State: keeper.Running}); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteString(`{"seq":4,"id":"torn`) // killed in the middle of a write
	f.Close()
	j = reopen(t, path)
	got := j.After(1)
	if len(got) != 2 || got[0].Seq != 2 || got[1].Seq != 3 || got[1].ID != "2" {
		t.Fatalf("replay after 1: %+v", got)
	}
	if err := j.Publish(keeper.Event{ID: "next"}); err != nil {
		t.Fatal(err)
	}
	if got := reopen(t, path).After(3); len(got) != 1 || got[0].Seq != 4 || got[0].ID != "next" {
		t.Fatalf("after the torn line: %+v", got)
	}
}

func TestJournalIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j := reopen(t, path)
	const n = 5*Keep + 7
	for range n {
		if err := j.Publish(keeper.Event{ID: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	got := j.After(0)
	if len(got) != Keep || got[0].Seq != n-Keep+1 || got[len(got)-1].Seq != n {
		t.Fatalf("%d events, %d to %d", len(got), got[0].Seq, got[len(got)-1].Seq)
	}
	for i := 1; i < len(got); i++ {
		if got[i].Seq != got[i-1].Seq+1 {
			t.Fatalf("gap between %d and %d", got[i-1].Seq, got[i].Seq)
		}
	}
	if j.lines > 4*Keep {
		t.Errorf("file holds %d lines", j.lines)
	}
	if last := reopen(t, path).Seq(); last != n {
		t.Errorf("reopened at %d, want %d", last, n)
	}
}

func TestJournalWakes(t *testing.T) {
	j := reopen(t, filepath.Join(t.TempDir(), "journal"))
	wake, cancel := j.Subscribe()
	j.Publish(keeper.Event{ID: "a"})
	j.Publish(keeper.Event{ID: "b"})
	<-wake
	select {
	case <-wake:
		t.Error("two wake-ups wait")
	default:
	}
	cancel()
	j.Publish(keeper.Event{ID: "c"})
	select {
	case <-wake:
		t.Error("woken after cancel")
	default:
	}
}

// Whatever is in the file, the numbers rise, and what is opened again is the same.
func FuzzOpen(f *testing.F) {
	f.Fuzz(func(t *testing.T, text []byte) {
		path := filepath.Join(t.TempDir(), "journal")
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		events := j.After(0)
		last := uint64(0)
		for _, e := range events {
			if e.Seq <= last {
				t.Errorf("event %d after %d", e.Seq, last)
			}
			last = e.Seq
		}
		j.Close()
		again, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if got := again.After(0); len(got) != len(events) || again.Seq() != j.last {
			t.Errorf("%d events up to %d, then %d up to %d", len(events), j.last, len(got), again.Seq())
		}
	})
}
