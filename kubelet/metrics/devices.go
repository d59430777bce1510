package metrics

import "time"

// Devices counts what happens with device plugins, and when pods are given parts of the machine.
type Devices struct {
	plugins            *Counter
	allocations        *Histogram
	admissions, failed *Counter
	admission          *Histogram // in milliseconds
	cpus, memory       pinning
}

// pinning counts how often containers were given something for themselves, and how often that failed.
type pinning struct{ requests, errors *Counter }

func (p pinning) count(err error) {
	p.requests.Inc()
	if err != nil {
		p.errors.Inc()
	}
}

func newDevices(s *Set) *Devices {
	return &Devices{
		plugins:     s.Counter("kubelet_device_plugin_registration_total", "[ALPHA] Cumulative number of device plugin registrations. Broken down by resource name."),
		allocations: s.Histogram("kubelet_device_plugin_alloc_duration_seconds", "[ALPHA] Duration in seconds to serve a device plugin Allocation request. Broken down by resource name.", defaults),
		admissions:  s.Total("kubelet_topology_manager_admission_requests_total", "[ALPHA] The number of admission requests where resources have to be aligned."),
		failed:      s.Total("kubelet_topology_manager_admission_errors_total", "[ALPHA] The number of admission request failures where resources could not be aligned."),
		admission:   s.Histogram("kubelet_topology_manager_admission_duration_ms", "[ALPHA] Duration in milliseconds to serve a pod admission request.", Buckets(.05, 2, 15)),
		cpus: pinning{s.Total("kubelet_cpu_manager_pinning_requests_total", "[ALPHA] The number of cpu core allocations which required pinning."),
			s.Total("kubelet_cpu_manager_pinning_errors_total", "[ALPHA] The number of cpu core allocations which required pinning failed.")},
		memory: pinning{s.Total("kubelet_memory_manager_pinning_requests_total", "[ALPHA] The number of memory pages allocations which required pinning."),
			s.Total("kubelet_memory_manager_pinning_errors_total", "[ALPHA] The number of memory pages allocations which required pinning that failed.")},
	}
}

// Registered counts a device plugin that registered.
func (d *Devices) Registered(resource string) { d.plugins.Inc("resource_name", resource) }

// Allocated takes in how long a device plugin took to give devices to a container.
func (d *Devices) Allocated(resource string, took time.Duration) {
	d.allocations.Observe(took, "resource_name", resource)
}

// Admitted takes in how long it took to give a pod what it asks for, and whether that failed.
func (d *Devices) Admitted(took time.Duration, err error) {
	d.admissions.Inc()
	if err != nil {
		d.failed.Inc()
	}
	d.admission.Observe(took * 1000)
}

// CPUs counts CPUs given to a container for itself.
func (d *Devices) CPUs(err error) { d.cpus.count(err) }

// Memory counts memory of certain NUMA nodes given to a container.
func (d *Devices) Memory(err error) { d.memory.count(err) }
