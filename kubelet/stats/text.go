package stats

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// text writes metrics in Prometheus' text format, each name's samples together.
type text struct {
	names []string
	kinds map[string]string // name → "type help"
	lines map[string][]string
}

// Kinds of metrics.
const (
	counter = "counter"
	gauge   = "gauge"
)

// contentType is that of the text format.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

func newText() *text { return &text{kinds: map[string]string{}, lines: map[string][]string{}} }

// describe announces a metric; samples of others are dropped.
func (t *text) describe(name, kind, help string) {
	t.names = append(t.names, name)
	t.kinds[name] = "# HELP " + name + " " + help + "\n# TYPE " + name + " " + kind + "\n"
}

// add records a sample. labels are pairs. at is left out when zero.
func (t *text) add(name string, value float64, at time.Time, labels ...string) {
	if t.kinds[name] == "" {
		return
	}
	var b strings.Builder
	b.WriteString(name)
	for i := 0; i+1 < len(labels); i += 2 {
		b.WriteString(map[bool]string{true: "{", false: ","}[i == 0])
		b.WriteString(labels[i] + `="` + escape(labels[i+1]) + `"`)
	}
	if len(labels) > 0 {
		b.WriteByte('}')
	}
	b.WriteString(" " + strconv.FormatFloat(value, 'g', -1, 64))
	if !at.IsZero() {
		b.WriteString(" " + strconv.FormatInt(at.UnixMilli(), 10))
	}
	t.lines[name] = append(t.lines[name], b.String())
}

// maybe records a sample that may not have been measured.
func (t *text) maybe(name string, value *uint64, scale float64, at time.Time, labels ...string) {
	if value != nil {
		t.add(name, float64(*value)*scale, at, labels...)
	}
}

// writeTo writes all metrics that have samples.
func (t *text) writeTo(w io.Writer) {
	for _, name := range t.names {
		lines := t.lines[name]
		if len(lines) == 0 {
			continue
		}
		slices.Sort(lines)
		fmt.Fprint(w, t.kinds[name], strings.Join(lines, "\n"), "\n")
	}
}

func escape(s string) string {
	return strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`).Replace(s)
}
