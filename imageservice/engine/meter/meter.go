// Package meter counts what the image service does, for imageservice.Meter.
package meter

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/skiff-node/skiff/imageservice"
)

// Meter holds the counts. The zero value is ready.
type Meter struct {
	pullsInFlight, blobsInFlight               atomic.Int64
	bytes                                      atomic.Int64
	blobs, blobsShared, unpacked, layersShared atomic.Int64

	mu       sync.Mutex
	failures map[string]int64
	seconds  imageservice.Histogram
}

func bounds() []time.Duration {
	return []time.Duration{
		100 * time.Millisecond, 250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second,
		10 * time.Second, 30 * time.Second, time.Minute, 5 * time.Minute,
	}
}

// Pull counts a pull that begins. The function it returns is called with its end.
func (m *Meter) Pull() func(error) {
	began := time.Now()
	m.pullsInFlight.Add(1)
	return func(err error) {
		m.pullsInFlight.Add(-1)
		m.mu.Lock()
		defer m.mu.Unlock()
		if err != nil {
			if m.failures == nil {
				m.failures = map[string]int64{}
			}
			m.failures[reason(err)]++
			return
		}
		m.observe(time.Since(began))
	}
}

// observe adds to the histogram. The caller holds m.mu.
func (m *Meter) observe(took time.Duration) {
	h := &m.seconds
	if h.Bounds == nil {
		h.Bounds, h.Counts = bounds(), make([]int64, len(bounds()))
	}
	for i, b := range h.Bounds {
		if took <= b {
			h.Counts[i]++
		}
	}
	h.Count++
	h.Sum += took
}

func reason(err error) string {
	for _, r := range imageservice.FailureReasons() {
		if errors.Is(err, r.Err) {
			return r.Name
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return "canceled"
	}
	return "other"
}

// Fetch counts a download that begins. The function it returns is called with its end.
func (m *Meter) Fetch() func(error) {
	m.blobsInFlight.Add(1)
	return func(err error) {
		m.blobsInFlight.Add(-1)
		if err == nil {
			m.blobs.Add(1)
		}
	}
}

// Bytes counts bytes that arrived.
func (m *Meter) Bytes(n int64) { m.bytes.Add(n) }

// SharedBlob counts a blob that need not be fetched.
func (m *Meter) SharedBlob() { m.blobsShared.Add(1) }

// Unpacked counts a layer that was unpacked.
func (m *Meter) Unpacked() { m.unpacked.Add(1) }

// SharedLayer counts a layer that need not be unpacked.
func (m *Meter) SharedLayer() { m.layersShared.Add(1) }

// Metrics returns the counts so far.
func (m *Meter) Metrics() imageservice.Metrics {
	out := imageservice.Metrics{
		PullsInFlight: m.pullsInFlight.Load(), BlobsInFlight: m.blobsInFlight.Load(), BytesFetched: m.bytes.Load(),
		BlobsFetched: m.blobs.Load(), BlobsShared: m.blobsShared.Load(), LayersUnpacked: m.unpacked.Load(), LayersShared: m.layersShared.Load(),
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	out.PullFailures, out.PullSeconds = maps.Clone(m.failures), m.seconds
	out.PullSeconds.Bounds, out.PullSeconds.Counts = slices.Clone(m.seconds.Bounds), slices.Clone(m.seconds.Counts)
	out.Pulls = m.seconds.Count
	return out
}
