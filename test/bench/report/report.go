// Package report holds what the bench has found and prints it.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Report is everything a run has found.
type Report struct {
	Machine  Machine   `json:"machine"`
	Versions []string  `json:"versions"`
	Sections []Section `json:"sections"`
}

// Machine is where the run took place.
type Machine struct {
	Cores     int       `json:"cores"`
	Memory    float64   `json:"memoryGiB"`
	Kernel    string    `json:"kernel"`
	Date      time.Time `json:"date"`
	LoadStart string    `json:"loadAverageAtStart"`
	LoadEnd   string    `json:"loadAverageAtEnd"`
}

// Here is this machine, at the start of a run.
func Here() Machine {
	m := Machine{Cores: runtime.NumCPU(), Date: time.Now().UTC().Truncate(time.Second), LoadStart: Load()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	var i unix.Sysinfo_t
	if unix.Sysinfo(&i) == nil {
		m.Memory = float64(i.Totalram) * float64(i.Unit) / (1 << 30)
	}
	return m
}

// Load is the load average of the last minute.
func Load() string {
	raw, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}

// Section is one table.
type Section struct {
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Peer  string `json:"peer"` // what skiff is compared with
	Rows  []Row  `json:"rows"`
}

// Row is one measured thing. A nil side was not measured.
type Row struct {
	Name  string `json:"name"`
	Skiff *Stat  `json:"skiff,omitempty"`
	Peer  *Stat  `json:"peer,omitempty"`
	Goal  string `json:"goal,omitempty"`
}

// Stat sums up the samples of one thing: nearest-rank percentiles.
type Stat struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	Min float64 `json:"min"`
}

// Stats sums up samples; nil when there are none.
func Stats(samples []float64) *Stat {
	if len(samples) == 0 {
		return nil
	}
	s := slices.Clone(samples)
	slices.Sort(s)
	rank := func(p int) float64 { return s[(len(s)*p+99)/100-1] }
	return &Stat{N: len(s), P50: rank(50), P90: rank(90), Min: s[0]}
}

// One is a single sample.
func One(v float64) *Stat { return Stats([]float64{v}) }

// Millis is a duration in milliseconds.
func Millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// MiB in bytes.
const MiB = 1 << 20

// Add adds a table that compares with containerd.
func (r *Report) Add(title, unit string, rows ...Row) { r.Against("containerd", title, unit, rows...) }

// Against adds a table that compares with something else.
func (r *Report) Against(peer, title, unit string, rows ...Row) {
	r.Sections = append(r.Sections, Section{title, unit, peer, rows})
}

// Print prints it as a table, as markdown or as json.
func (r *Report) Print(w io.Writer, format string) error {
	switch format {
	case "json":
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	case "markdown":
		fmt.Fprintln(w, r.heading())
		for _, s := range r.Sections {
			fmt.Fprintf(w, "\n| %s (%s) | skiff p50 | p90 | %s p50 | p90 | ratio | goal |\n|---|---:|---:|---:|---:|---:|---|\n", s.Title, s.Unit, s.Peer)
			for _, x := range s.Rows {
				fmt.Fprintf(w, "| %s |\n", strings.Join(x.cells(), " | "))
			}
		}
		return nil
	}
	fmt.Fprintln(w, r.heading())
	const line = "%-48s %9s %7s %16s %7s %8s   %s\n"
	for _, s := range r.Sections {
		fmt.Fprintln(w)
		fmt.Fprintf(w, line, s.Title+" ("+s.Unit+")", "skiff p50", "p90", s.Peer+" p50", "p90", "ratio", "goal")
		for _, x := range s.Rows {
			c := x.cells()
			fmt.Fprintf(w, line, "  "+c[0], c[1], c[2], c[3], c[4], c[5], c[6])
		}
	}
	return nil
}

func (r *Report) heading() string {
	m := r.Machine
	return fmt.Sprintf("%d cores, %.1f GiB, Linux %s; load average %s at start, %s at end; %s\n%s", m.Cores, m.Memory, m.Kernel, m.LoadStart, m.LoadEnd,
		m.Date.Format("2006-01-02 15:04 MST"), strings.Join(r.Versions, "; "))
}

func (x Row) cells() []string {
	c := []string{x.Name, "", "", "", "", "", x.Goal}
	for i, s := range []*Stat{x.Skiff, x.Peer} {
		if s != nil {
			c[1+2*i] = number(s.P50)
		}
		if s != nil && s.N > 1 {
			c[2+2*i] = number(s.P90)
		}
	}
	if x.Skiff != nil && x.Peer != nil && x.Skiff.P50 > 0 {
		c[5] = strconv.FormatFloat(x.Peer.P50/x.Skiff.P50, 'f', 1, 64) + "×"
	}
	return c
}

// number keeps three digits.
func number(v float64) string {
	switch {
	case v >= 100 || v <= -100:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 10:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}
