package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// report is everything a run has found.
type report struct {
	Machine  machine   `json:"machine"`
	Versions []string  `json:"versions"`
	Sections []section `json:"sections"`
}

// machine is where the run took place.
type machine struct {
	Cores     int       `json:"cores"`
	Memory    float64   `json:"memoryGiB"`
	Kernel    string    `json:"kernel"`
	Date      time.Time `json:"date"`
	LoadStart string    `json:"loadAverageAtStart"`
	LoadEnd   string    `json:"loadAverageAtEnd"`
}

func thisMachine() machine {
	m := machine{Cores: runtime.NumCPU(), Date: time.Now().UTC().Truncate(time.Second), LoadStart: load()}
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

// load is the load average of the last minute.
func load() string {
	raw, _ := os.ReadFile("/proc/loadavg")
	first, _, _ := strings.Cut(string(raw), " ")
	return first
}

// section is one table.
type section struct {
	Title string `json:"title"`
	Unit  string `json:"unit"`
	Peer  string `json:"peer"` // what skiff is compared with
	Rows  []row  `json:"rows"`
}

// row is one measured thing. A nil side was not measured.
type row struct {
	Name  string `json:"name"`
	Skiff *stat  `json:"skiff,omitempty"`
	Peer  *stat  `json:"peer,omitempty"`
	Goal  string `json:"goal,omitempty"`
}

// stat sums up the samples of one thing: nearest-rank percentiles.
type stat struct {
	N   int     `json:"n"`
	P50 float64 `json:"p50"`
	P90 float64 `json:"p90"`
	Min float64 `json:"min"`
}

func stats(samples []float64) *stat {
	if len(samples) == 0 {
		return nil
	}
	s := slices.Clone(samples)
	slices.Sort(s)
	rank := func(p int) float64 { return s[(len(s)*p+99)/100-1] }
	return &stat{N: len(s), P50: rank(50), P90: rank(90), Min: s[0]}
}

func one(v float64) *stat { return stats([]float64{v}) }

func millis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

const mib = 1 << 20

// add adds a table that compares with containerd.
func (r *report) add(title, unit string, rows ...row) { r.against("containerd", title, unit, rows...) }

// against adds a table that compares with something else.
func (r *report) against(peer, title, unit string, rows ...row) {
	r.Sections = append(r.Sections, section{title, unit, peer, rows})
}

func (r *report) print(w io.Writer, format string) error {
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

func (r *report) heading() string {
	m := r.Machine
	return fmt.Sprintf("%d cores, %.1f GiB, Linux %s; load average %s at start, %s at end; %s\n%s", m.Cores, m.Memory, m.Kernel, m.LoadStart, m.LoadEnd,
		m.Date.Format("2006-01-02 15:04 MST"), strings.Join(r.Versions, "; "))
}

func (x row) cells() []string {
	c := []string{x.Name, "", "", "", "", "", x.Goal}
	for i, s := range []*stat{x.Skiff, x.Peer} {
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

// sizes reports the binaries.
func sizes(b *bench, bin string) {
	var rows []row
	file := func(path string) *stat {
		st, err := os.Stat(path)
		if err != nil {
			return nil
		}
		return one(float64(st.Size()) / mib)
	}
	for _, name := range []string{"skiff", "skiff-cri", "skiff-keeper", "skiff-kubelet", "skiff-cni"} {
		if s := file(filepath.Join(bin, name)); s != nil {
			rows = append(rows, row{Name: name, Skiff: s})
		}
	}
	for _, path := range []string{"/usr/bin/containerd", "/usr/bin/containerd-shim-runc-v2", "/usr/sbin/runc"} {
		if s := file(path); s != nil {
			rows = append(rows, row{Name: filepath.Base(path), Peer: s})
		}
	}
	b.report.add("Binaries", "MiB", rows...)
}
