// Package metrics counts what the kubelet does, under the names that dashboards know. It is a registry of counters,
// gauges and histograms in Prometheus' text format, and no more; what Go and the kernel tell of the process is client_golang's.
package metrics

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Set holds metrics. Its methods are safe for concurrent use; the zero value is empty, and a nil one discards.
type Set struct {
	mu    sync.Mutex
	order []*family
}

// family is one name with all its labels.
type family struct {
	name, help, kind string
	buckets          []float64
	samples          map[string]*sample
	read             func(Emit) // for one that is read when it is asked for
}

// Emit tells one sample of a gauge. labels are pairs.
type Emit func(value float64, labels ...string)

// sample is one combination of labels.
type sample struct {
	count  uint64
	sum    float64
	within []uint64 // observations per bucket, each counted once
}

// Counter counts events.
type Counter struct {
	set *Set
	f   *family
}

// Gauge is a value that goes up and down.
type Gauge struct {
	set *Set
	f   *family
}

// Histogram sorts observations into buckets.
type Histogram struct {
	set *Set
	f   *family
}

func (s *Set) family(name, help, kind string, buckets []float64) *family {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	f := &family{name: name, help: help, kind: kind, buckets: buckets, samples: map[string]*sample{}}
	s.order = append(s.order, f)
	return f
}

// Counter adds a counter.
func (s *Set) Counter(name, help string) *Counter {
	return &Counter{s, s.family(name, help, "counter", nil)}
}

// Total adds a counter without labels, which is shown from the beginning.
func (s *Set) Total(name, help string) *Counter {
	c := s.Counter(name, help)
	if c.f != nil {
		c.f.sample(nil)
	}
	return c
}

// Gauge adds a gauge.
func (s *Set) Gauge(name, help string) *Gauge {
	return &Gauge{s, s.family(name, help, "gauge", nil)}
}

// Read adds a gauge that is read whenever somebody asks.
func (s *Set) Read(name, help string, read func(Emit)) {
	if f := s.family(name, help, "gauge", nil); f != nil {
		f.read = read
	}
}

// Histogram adds a histogram with those upper bounds.
func (s *Set) Histogram(name, help string, buckets []float64) *Histogram {
	return &Histogram{s, s.family(name, help, "histogram", buckets)}
}

// Buckets grow from first by factor.
func Buckets(first, factor float64, count int) []float64 {
	var list []float64
	for range count {
		list = append(list, first)
		first *= factor
	}
	return list
}

// Inc counts one. labels are pairs.
func (c *Counter) Inc(labels ...string) { c.Add(1, labels...) }

// Add counts n.
func (c *Counter) Add(n uint64, labels ...string) {
	if c == nil || c.set == nil {
		return
	}
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	c.f.sample(labels).count += n
}

// Set gives the gauge a value. labels are pairs.
func (g *Gauge) Set(value float64, labels ...string) {
	if g == nil || g.set == nil {
		return
	}
	g.set.mu.Lock()
	defer g.set.mu.Unlock()
	g.f.sample(labels).sum = value
}

// Add changes the gauge by that much.
func (g *Gauge) Add(change float64, labels ...string) {
	if g == nil || g.set == nil {
		return
	}
	g.set.mu.Lock()
	defer g.set.mu.Unlock()
	g.f.sample(labels).sum += change
}

// Observe takes in a duration, in seconds. labels are pairs.
func (h *Histogram) Observe(d time.Duration, labels ...string) { h.value(d.Seconds(), labels...) }

// value takes in a value of any unit.
func (h *Histogram) value(v float64, labels ...string) {
	if h == nil || h.set == nil {
		return
	}
	h.set.mu.Lock()
	defer h.set.mu.Unlock()
	s := h.f.sample(labels)
	s.count++
	s.sum += v
	for i, most := range h.f.buckets {
		if v <= most {
			s.within[i]++
			return
		}
	}
}

// Forget drops samples that have these labels, which are pairs: what they are about is gone.
func (s *Set) Forget(labels ...string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.order {
		f.forget(labels)
	}
}

// Forget is the set's for this histogram alone.
func (h *Histogram) Forget(labels ...string) {
	h.set.mu.Lock()
	defer h.set.mu.Unlock()
	h.f.forget(labels)
}

func (f *family) forget(labels []string) {
	gone := pairs(labels)
	for key := range f.samples {
		have := strings.Split(key, ",")
		if !slices.ContainsFunc(gone, func(p string) bool { return !slices.Contains(have, p) }) {
			delete(f.samples, key)
		}
	}
}

func (f *family) sample(labels []string) *sample {
	key := strings.Join(pairs(labels), ",")
	s := f.samples[key]
	if s == nil {
		s = &sample{within: make([]uint64, len(f.buckets))}
		f.samples[key] = s
	}
	return s
}

func pairs(labels []string) []string {
	var list []string
	for i := 0; i+1 < len(labels); i += 2 {
		list = append(list, pair(labels[i], labels[i+1]))
	}
	return list
}

// escapes are those of label values in the text format.
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func pair(name, value string) string { return name + `="` + escapes.Replace(value) + `"` }

// WriteText writes all metrics that have samples.
func (s *Set) WriteText(w io.Writer) {
	if s == nil {
		return
	}
	s.read()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.order {
		if len(f.samples) == 0 {
			continue
		}
		fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", f.name, f.help, f.name, f.kind)
		keys := make([]string, 0, len(f.samples))
		for key := range f.samples {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			f.write(w, key, f.samples[key])
		}
	}
}

// read brings the gauges up to date that are read. They are read without the lock: what they tell of may be counting.
func (s *Set) read() {
	s.mu.Lock()
	order := slices.Clone(s.order)
	s.mu.Unlock()
	for _, f := range order {
		if f.read == nil {
			continue
		}
		fresh := family{samples: map[string]*sample{}}
		f.read(func(value float64, labels ...string) { fresh.sample(labels).sum = value })
		s.mu.Lock()
		f.samples = fresh.samples
		s.mu.Unlock()
	}
}

func (f *family) write(w io.Writer, key string, s *sample) {
	switch f.kind {
	case "counter":
		fmt.Fprintf(w, "%s%s %d\n", f.name, braces(key), s.count)
		return
	case "gauge":
		fmt.Fprintf(w, "%s%s %s\n", f.name, braces(key), strconv.FormatFloat(s.sum, 'g', -1, 64))
		return
	}
	comma := ""
	if key != "" {
		comma = ","
	}
	sum := uint64(0)
	for i, most := range f.buckets {
		sum += s.within[i]
		fmt.Fprintf(w, "%s_bucket{%s%sle=\"%s\"} %d\n", f.name, key, comma, strconv.FormatFloat(most, 'g', -1, 64), sum)
	}
	fmt.Fprintf(w, "%s_bucket{%s%sle=\"+Inf\"} %d\n", f.name, key, comma, s.count)
	fmt.Fprintf(w, "%s_sum%s %s\n%s_count%s %d\n", f.name, braces(key), strconv.FormatFloat(s.sum, 'g', -1, 64), f.name, braces(key), s.count)
}

func braces(key string) string {
	if key == "" {
		return ""
	}
	return "{" + key + "}"
}
