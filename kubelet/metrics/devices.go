package metrics

import "time"

// Devices counts what happens with device plugins.
type Devices struct {
	plugins     *Counter
	allocations *Histogram
}

func newDevices(s *Set) *Devices {
	return &Devices{
		plugins:     s.Counter("kubelet_device_plugin_registration_total", "[ALPHA] Cumulative number of device plugin registrations. Broken down by resource name."),
		allocations: s.Histogram("kubelet_device_plugin_alloc_duration_seconds", "[ALPHA] Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.", defaults),
	}
}

// Registered counts a device plugin that registered.
func (d *Devices) Registered(resource string) { d.plugins.Inc("resource_name", resource) }

// Allocated takes in how long a device plugin took to give devices to a container.
func (d *Devices) Allocated(resource string, took time.Duration) {
	d.allocations.Observe(took, "resource_name", resource)
}
