package main

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/cmd/skiff/term"
	"github.com/skiff-node/skiff/imageservice"
)

func TestProgress(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	var out bytes.Buffer
	p := term.New(null)
	p.W = &out
	s := newProgress(null, p)
	for _, r := range []imageservice.Progress{
		{Stage: "resolving"},
		{Digest: "sha256:aaaa", Stage: "downloading", Done: 500, Total: 2000},
		{Digest: "sha256:aaaa", Stage: "downloading", Done: 1000, Total: 2000},
		{Digest: "sha256:bbbb", Stage: "exists", Done: 2000, Total: 2000},
	} {
		s.update(r)
	}
	if n := strings.Count(out.String(), "\n"); n != 3 || strings.Contains(out.String(), "\x1b") {
		t.Errorf("without a terminal each stage is one plain line:\n%q", out.String())
	}
	s.live, s.width = true, 100
	lines := s.lines()
	if len(lines) != 2 || !strings.Contains(lines[0], "aaaa") || strings.Count(lines[0], "━") != 20 || !strings.Contains(lines[1], "1 of 2") || strings.Count(lines[1], "━") != 30 {
		t.Errorf("bars:\n%s", strings.Join(lines, "\n"))
	}
	s.update(imageservice.Progress{Digest: "sha256:aaaa", Stage: "done"})
	s.end()
	if got := s.lines(); len(got) != 1 || !strings.Contains(got[0], "2 of 2") || !strings.Contains(out.String(), "\x1b[1A") {
		t.Errorf("at the end:\n%s\n%q", strings.Join(got, "\n"), out.String())
	}
}
