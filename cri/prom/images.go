package prom

import (
	"maps"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-node/skiff/imageservice"
)

// Pulls collects what the image service counts.
type Pulls struct{ Meter imageservice.Meter }

var (
	pulls         = desc("image_pulls_total", "Pulls by result: ok, or why they failed.", "result")
	pullSeconds   = desc("image_pull_seconds", "Time that pulls took that succeeded.")
	pullsNow      = desc("image_pulls_in_flight", "Pulls in flight.")
	blobsNow      = desc("image_blobs_in_flight", "Downloads of blobs in flight.")
	bytesFetched  = desc("image_fetched_bytes_total", "Bytes received from registries.")
	blobsGot      = desc("image_blobs_total", "Blobs that pulls needed: fetched, or shared with what was there or another pull.", "how")
	layersGot     = desc("image_layers_total", "Layers that pulls needed: unpacked, or shared with what was there or another pull.", "how")
	rootFSPresent = desc("root_file_systems", "Root file systems of containers and image volumes.")
)

// Describe implements prometheus.Collector.
func (p Pulls) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{pulls, pullSeconds, pullsNow, blobsNow, bytesFetched, blobsGot, layersGot, rootFSPresent} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (p Pulls) Collect(ch chan<- prometheus.Metric) {
	m := p.Meter.Metrics()
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, float64(v), labels...)
	}
	send(pulls, prometheus.CounterValue, m.Pulls, "ok")
	for _, reason := range slices.Sorted(maps.Keys(m.PullFailures)) {
		send(pulls, prometheus.CounterValue, m.PullFailures[reason], reason)
	}
	send(pullsNow, prometheus.GaugeValue, m.PullsInFlight)
	send(blobsNow, prometheus.GaugeValue, m.BlobsInFlight)
	send(bytesFetched, prometheus.CounterValue, m.BytesFetched)
	send(blobsGot, prometheus.CounterValue, m.BlobsFetched, "fetched")
	send(blobsGot, prometheus.CounterValue, m.BlobsShared, "shared")
	send(layersGot, prometheus.CounterValue, m.LayersUnpacked, "unpacked")
	send(layersGot, prometheus.CounterValue, m.LayersShared, "shared")
	send(rootFSPresent, prometheus.GaugeValue, m.RootFileSystems)
	buckets := map[float64]uint64{}
	for i, bound := range m.PullSeconds.Bounds {
		buckets[bound.Seconds()] = uint64(m.PullSeconds.Counts[i])
	}
	ch <- prometheus.MustNewConstHistogram(pullSeconds, uint64(m.PullSeconds.Count), m.PullSeconds.Sum.Seconds(), buckets)
}
