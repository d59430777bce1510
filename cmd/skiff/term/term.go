// Package term is how skiff's commands speak to people: progress lines, tables, colours on a terminal; and to
// machines: JSON and YAML.
package term

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	xterm "golang.org/x/term"
	"sigs.k8s.io/yaml"
)

// Printer writes to one stream. Colours appear only on a terminal, and not where NO_COLOR is set.
type Printer struct {
	W     io.Writer
	color bool
	start time.Time
}

// New makes a printer for a file.
func New(f *os.File) *Printer {
	_, no := os.LookupEnv("NO_COLOR")
	return &Printer{W: f, color: xterm.IsTerminal(int(f.Fd())) && !no, start: time.Now()}
}

// Style is an ANSI colour.
type Style string

// The styles that output uses.
const (
	Green  Style = "32"
	Red    Style = "31"
	Yellow Style = "33"
	Dim    Style = "2"
	Bold   Style = "1"
)

// Paint colours a text where the stream is a terminal.
func (p *Printer) Paint(s Style, text string) string {
	if !p.color {
		return text
	}
	return "\x1b[" + string(s) + "m" + text + "\x1b[0m"
}

// Step prints one line of progress: what has been reached, and when.
func (p *Printer) Step(ok bool, what, detail string) {
	mark := p.Paint(Green, "✓")
	if !ok {
		mark = p.Paint(Red, "✗")
	}
	fmt.Fprintf(p.W, "%s %-22s %s  %s\n", mark, what, p.Paint(Dim, fmt.Sprintf("%6.2fs", time.Since(p.start).Seconds())), detail)
}

// Note prints a plain line.
func (p *Printer) Note(format string, args ...any) { fmt.Fprintf(p.W, format+"\n", args...) }

// Table prints rows in columns under a header.
func (p *Printer) Table(header []string, rows [][]string) {
	w := tabwriter.NewWriter(p.W, 0, 4, 3, ' ', 0)
	fmt.Fprintln(w, strings.Join(header, "\t"))
	for _, r := range rows {
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	w.Flush()
}

// Object prints a value as json or yaml.
func (p *Printer) Object(format string, v any) error {
	switch format {
	case "json":
		enc := json.NewEncoder(p.W)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		out, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = p.W.Write(out)
		return err
	}
	return fmt.Errorf("output format %q: use json or yaml", format)
}

// Bytes prints a size in the unit that fits.
func Bytes(n int64) string {
	units := []string{"B", "kB", "MB", "GB", "TB"}
	f, i := float64(n), 0
	for f >= 1000 && i < len(units)-1 {
		f /= 1000
		i++
	}
	if i == 0 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", f, units[i])
}
