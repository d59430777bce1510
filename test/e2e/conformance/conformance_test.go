//go:build e2e

package conformance

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// table is every behaviour, area by area.
func table() []behaviour {
	return slices.Concat(environment(), lifecycle(), pods(), probes(), security(), network(), configured(), downward(), emptyDirs())
}

// TestNodeConformance runs the table.
func TestNodeConformance(t *testing.T) {
	n := newNode(t)
	t.Run("all", func(t *testing.T) { // returns when its parallel tests are over, before the host goes
		for i, b := range table() {
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				b.test(newWorld(t, n, fmt.Sprintf("conformance-%d", i)))
			})
		}
	})
}

// TestListed compares the table with docs/conformance.md: each behaviour is listed once, and nothing else is.
func TestListed(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/conformance.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed, have []string
	for _, m := range regexp.MustCompile(`(?m)^\| (\[sig-.*?) \| `).FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, m[1])
	}
	for _, b := range table() {
		have = append(have, strings.TrimSpace(b.name))
	}
	slices.Sort(listed)
	slices.Sort(have)
	if !slices.Equal(listed, have) {
		for _, name := range have {
			if !slices.Contains(listed, name) {
				t.Errorf("not in docs/conformance.md: %s", name)
			}
		}
		for _, name := range listed {
			if !slices.Contains(have, name) {
				t.Errorf("in docs/conformance.md and not tested: %s", name)
			}
		}
	}
}
