package engine

import "github.com/skiff-node/skiff/imageservice"

var _ imageservice.Meter = (*Engine)(nil)

// Metrics returns what was counted so far. See imageservice.Meter.
func (e *Engine) Metrics() imageservice.Metrics {
	m := e.meter.Metrics()
	m.Images, m.RootFileSystems = int64(len(e.catalog.All())), int64(len(e.rootfs.keys()))
	return m
}
