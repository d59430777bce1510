package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	xterm "golang.org/x/term"

	"github.com/skiff-node/skiff/cmd/skiff/term"
	"github.com/skiff-node/skiff/imageservice"
)

// progress shows a pull: bars on a terminal, a line for each change of stage elsewhere.
type progress struct {
	p      *term.Printer
	live   bool
	width  int
	blobs  map[string]imageservice.Progress // by digest
	order  []string
	drawn  int // lines on the screen
	last   time.Time
	active int // most blobs shown at once
}

const (
	redraw    = 100 * time.Millisecond
	shownBars = 10
)

func newProgress(f *os.File, p *term.Printer) *progress {
	s := &progress{p: p, blobs: map[string]imageservice.Progress{}, active: shownBars}
	if xterm.IsTerminal(int(f.Fd())) {
		width, _, err := xterm.GetSize(int(f.Fd()))
		s.live, s.width = err == nil, width
	}
	return s
}

// update takes one report.
func (s *progress) update(pr imageservice.Progress) {
	old, known := s.blobs[pr.Digest]
	if !known {
		s.order = append(s.order, pr.Digest)
	}
	if pr.Total == 0 {
		pr.Total = old.Total
	}
	s.blobs[pr.Digest] = pr
	switch {
	case s.live && time.Since(s.last) >= redraw:
		s.draw()
	case !s.live && (!known || old.Stage != pr.Stage):
		s.p.Step(true, pr.Stage, strings.TrimSpace(short(pr.Digest)+" "+size(pr.Total)))
	}
}

// end leaves the last state on the screen.
func (s *progress) end() {
	if s.live {
		s.draw()
	}
}

func (s *progress) draw() {
	lines := s.lines()
	var out strings.Builder
	if s.drawn > 0 {
		fmt.Fprintf(&out, "\x1b[%dA", s.drawn) // up to the first line
	}
	out.WriteString("\x1b[J")
	for _, l := range lines {
		out.WriteString(l + "\n")
	}
	fmt.Fprint(s.p.W, out.String())
	s.drawn, s.last = len(lines), time.Now()
}

// lines are the bars of what is under way, and the sum.
func (s *progress) lines() []string {
	var lines []string
	var done, total int64
	ended := 0
	for _, digest := range s.order {
		b := s.blobs[digest]
		if digest == "" {
			continue
		}
		total += b.Total
		if b.Stage == "done" || b.Stage == "exists" {
			ended++
			done += b.Total
			continue
		}
		if b.Stage == "unpacking" {
			b.Done = b.Total
		}
		done += b.Done
		if len(lines) < s.active {
			lines = append(lines, s.line(short(digest), b.Stage, b.Done, b.Total))
		}
	}
	sum := fmt.Sprintf("%d of %d", ended, max(len(s.order)-1, 0))
	return append(lines, s.line("all", sum, done, total))
}

func (s *progress) line(name, what string, done, total int64) string {
	const fixed = 50
	room := min(max(s.width-fixed, 10), 40)
	full := 0
	if total > 0 {
		full = int(min(done, total) * int64(room) / total)
	}
	bar := s.p.Paint(term.Green, strings.Repeat("━", full)) + s.p.Paint(term.Dim, strings.Repeat("─", room-full))
	return fmt.Sprintf("%-12s  %-11s  %s  %9s of %s", name, what, bar, term.Bytes(done), term.Bytes(total))
}

func size(n int64) string {
	if n == 0 {
		return ""
	}
	return term.Bytes(n)
}
