// Package metrics counts what the kubelet does, under the names that dashboards know. It is a registry of a few counters
// and histograms in Prometheus' text format, and no more.
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
	read             func() // fills in the samples of a gauge when somebody looks; the set is locked
}

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

// Histogram adds a histogram with those upper bounds.
func (s *Set) Histogram(name, help string, buckets []float64) *Histogram {
	return &Histogram{s, s.family(name, help, "histogram", buckets)}
}

// Gauge adds what is counted when somebody looks, by the values of one label. read must not come back to the set.
func (s *Set) Gauge(name, help, label string, read func() map[string]int) {
	if s == nil {
		return
	}
	f := s.family(name, help, "gauge", nil)
	f.read = func() {
		clear(f.samples)
		for value, n := range read() {
			f.sample([]string{label, value}).count = uint64(max(n, 0))
		}
	}
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
func (c *Counter) Inc(labels ...string) {
	if c == nil || c.set == nil {
		return
	}
	c.set.mu.Lock()
	defer c.set.mu.Unlock()
	c.f.sample(labels).count++
}

// Observe takes in a duration, in seconds. labels are pairs.
func (h *Histogram) Observe(d time.Duration, labels ...string) {
	if h == nil || h.set == nil {
		return
	}
	h.set.mu.Lock()
	defer h.set.mu.Unlock()
	s, v := h.f.sample(labels), d.Seconds()
	s.count++
	s.sum += v
	for i, most := range h.f.buckets {
		if v <= most {
			s.within[i]++
			return
		}
	}
}

// Forget drops samples that have this label: what they are about is gone.
func (s *Set) Forget(label, value string) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	part := pair(label, value)
	for _, f := range s.order {
		for key := range f.samples {
			if slices.Contains(strings.Split(key, ","), part) {
				delete(f.samples, key)
			}
		}
	}
}

func (f *family) sample(labels []string) *sample {
	var pairs []string
	for i := 0; i+1 < len(labels); i += 2 {
		pairs = append(pairs, pair(labels[i], labels[i+1]))
	}
	key := strings.Join(pairs, ",")
	s := f.samples[key]
	if s == nil {
		s = &sample{within: make([]uint64, len(f.buckets))}
		f.samples[key] = s
	}
	return s
}

func pair(name, value string) string {
	return name + `="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value) + `"`
}

// WriteText writes all metrics that have samples.
func (s *Set) WriteText(w io.Writer) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.order {
		if f.read != nil {
			f.read()
		}
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

func (f *family) write(w io.Writer, key string, s *sample) {
	if f.kind != "histogram" {
		fmt.Fprintf(w, "%s%s %d\n", f.name, braces(key), s.count)
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
