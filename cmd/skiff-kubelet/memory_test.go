package main

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestUnmapUnused: less of the program's file is mapped afterwards, and the program goes on.
func TestUnmapUnused(t *testing.T) {
	_ = command().UsageString() // goes through some of the program
	before := fileKB(t)
	if err := unmapUnused(); err != nil {
		t.Fatal(err)
	}
	if after := fileKB(t); after >= before {
		t.Errorf("%d KB of files are mapped, before %d", after, before)
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
