package podmetrics

import (
	"cmp"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice"
)

const (
	counter = cri.MetricType_COUNTER
	gauge   = cri.MetricType_GAUGE
	// defaultPeriod is what the kernel enforces CPU quotas in, in microseconds, unless told otherwise.
	defaultPeriod = uint64(100000)
)

// Short names, for the table's sake.
type (
	detail    = runtimeservice.Detail
	metric    = runtimeservice.Metric
	unit      = runtimeservice.ContainerDetail
	resources = runtimeservice.Resources
	disk      = runtimeservice.DiskUsage
	hugepages = runtimeservice.HugepageUsage
	link      = runtimeservice.InterfaceUsage
)

// table is every metric, with the names and help texts of cAdvisor.
var table = []row{
	// CPU
	{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", counter, []string{"cpu"},
		seconds(func(d detail) metric { return d.Usage.CPU.CoreNanoseconds }, "total")},
	{"container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", counter, nil,
		seconds(func(d detail) metric { return d.CPU.User })},
	{"container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", counter, nil,
		seconds(func(d detail) metric { return d.CPU.System })},
	{"container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", counter, nil,
		of(func(d detail) metric { return d.CPU.Periods })},
	{"container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", counter, nil,
		of(func(d detail) metric { return d.CPU.ThrottledPeriods })},
	{"container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled.", counter, nil,
		seconds(func(d detail) metric { return d.CPU.ThrottledTime })},

	// Memory
	{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", gauge, nil,
		of(func(d detail) metric { return d.Usage.Memory.Usage })},
	{"container_memory_working_set_bytes", "Current working set in bytes.", gauge, nil,
		of(func(d detail) metric { return d.Usage.Memory.WorkingSet })},
	{"container_memory_rss", "Size of RSS in bytes.", gauge, nil,
		of(func(d detail) metric { return d.Usage.Memory.RSS })},
	{"container_memory_cache", "Number of bytes of page cache memory.", gauge, nil,
		of(func(d detail) metric { return d.Memory.Cache })},
	{"container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", gauge, nil,
		of(func(d detail) metric { return d.Memory.Kernel })},
	{"container_memory_mapped_file", "Size of memory mapped files in bytes.", gauge, nil,
		of(func(d detail) metric { return d.Memory.MappedFile })},
	{"container_memory_swap", "Container swap usage in bytes.", gauge, nil,
		of(func(d detail) metric { return d.Memory.Swap })},
	{"container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", gauge, nil,
		of(func(d detail) metric { return d.Memory.Peak })},
	{"container_memory_failcnt", "Number of memory usage hits limits", counter, nil,
		of(func(d detail) metric { return d.Memory.LimitHits })},
	{"container_memory_total_active_file_bytes", "Current total active file in bytes.", gauge, nil,
		of(func(d detail) metric { return d.Memory.ActiveFile })},
	{"container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", gauge, nil,
		of(func(d detail) metric { return d.Memory.InactiveFile })},
	{"container_memory_failures_total", "Cumulative count of memory allocation failures.", counter, []string{"failure_type", "scope"},
		failures},
	{"container_oom_events_total", "Count of out of memory events observed for the container", counter, nil,
		of(func(d detail) metric { return d.Memory.OOMKills })},
	{"container_hugetlb_usage_bytes", "Current hugepage usage in bytes", gauge, []string{"pagesize"},
		perSize(func(h hugepages) metric { return h.Usage })},
	{"container_hugetlb_max_usage_bytes", "Maximum hugepage usage recorded in bytes", gauge, []string{"pagesize"},
		perSize(func(h hugepages) metric { return h.Peak })},

	// The file system of the writable layer, and block devices
	{"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", gauge, []string{"device"},
		space(func(c *unit) uint64 { return c.Layer.Bytes })},
	{"container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", gauge, []string{"device"},
		space(func(c *unit) uint64 { return c.Space.Bytes })},
	{"container_fs_inodes_total", "Number of Inodes", gauge, []string{"device"},
		space(func(c *unit) uint64 { return c.Space.Inodes })},
	{"container_fs_inodes_free", "Number of available Inodes", gauge, []string{"device"},
		space(func(c *unit) uint64 { return c.Space.FreeInodes })},
	{"container_fs_reads_bytes_total", "Cumulative count of bytes read", counter, []string{"device"},
		perDisk(func(d disk) uint64 { return d.ReadBytes })},
	{"container_fs_reads_total", "Cumulative count of reads completed", counter, []string{"device"},
		perDisk(func(d disk) uint64 { return d.Reads })},
	{"container_fs_writes_bytes_total", "Cumulative count of bytes written", counter, []string{"device"},
		perDisk(func(d disk) uint64 { return d.WrittenBytes })},
	{"container_fs_writes_total", "Cumulative count of writes completed", counter, []string{"device"},
		perDisk(func(d disk) uint64 { return d.Writes })},
	{"container_blkio_device_usage_total", "Blkio Device bytes usage", counter, []string{"device", "major", "minor", "operation"},
		blkio},

	// Network, of pods only: containers share it
	{"container_network_receive_bytes_total", "Cumulative count of bytes received", counter, []string{"interface"},
		perInterface(func(n link) uint64 { return n.RxBytes })},
	{"container_network_receive_packets_total", "Cumulative count of packets received", counter, []string{"interface"},
		perInterface(func(n link) uint64 { return n.RxPackets })},
	{"container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", counter, []string{"interface"},
		perInterface(func(n link) uint64 { return n.RxDropped })},
	{"container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", counter, []string{"interface"},
		perInterface(func(n link) uint64 { return n.RxErrors })},
	{"container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", counter, []string{"interface"},
		perInterface(func(n link) uint64 { return n.TxBytes })},
	{"container_network_transmit_packets_total", "Cumulative count of packets transmitted", counter, []string{"interface"},
		perInterface(func(n link) uint64 { return n.TxPackets })},
	{"container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", counter, []string{"interface"},
		perInterface(func(n link) uint64 { return n.TxDropped })},
	{"container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", counter, []string{"interface"},
		perInterface(func(n link) uint64 { return n.TxErrors })},

	// Pressure
	{"container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion.", counter, nil,
		pressure(cpuPressure, full)},
	{"container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion.", counter, nil,
		pressure(cpuPressure, some)},
	{"container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion.", counter, nil,
		pressure(memoryPressure, full)},
	{"container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion.", counter, nil,
		pressure(memoryPressure, some)},
	{"container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion.", counter, nil,
		pressure(ioPressure, full)},
	{"container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion.", counter, nil,
		pressure(ioPressure, some)},

	// Processes
	{"container_processes", "Number of processes running inside the container.", gauge, nil,
		of(func(d detail) metric { return d.Processes.Processes })},
	{"container_threads", "Number of threads running inside the container", gauge, nil,
		of(func(d detail) metric { return d.Processes.Threads })},
	{"container_file_descriptors", "Number of open file descriptors for the container.", gauge, nil,
		of(func(d detail) metric { return d.Processes.Descriptors })},
	{"container_sockets", "Number of open sockets for the container.", gauge, nil,
		of(func(d detail) metric { return d.Processes.Sockets })},
	{"container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero", gauge, nil,
		func(s subject) []sample { return always(s.detail.Processes.ThreadsMax.Value) }},
	{"container_ulimits_soft", "Soft ulimit values for the container root process. Unlimited if -1, except priority and nice", gauge, []string{"ulimit"},
		of(func(d detail) metric { return d.Processes.OpenFilesMax }, "max_open_files")},

	// What was asked for
	{"container_spec_cpu_period", "CPU period of the container.", gauge, nil,
		container(func(c *unit) []sample {
			return always(cmp.Or(uint64(max(c.Container.Config.Resources.CPUPeriod, 0)), defaultPeriod))
		})},
	{"container_spec_cpu_quota", "CPU quota of the container.", gauge, nil,
		given(func(r resources) int64 { return r.CPUQuota })},
	{"container_spec_cpu_shares", "CPU share of the container.", gauge, nil,
		given(func(r resources) int64 { return r.CPUShares })},
	{"container_spec_memory_limit_bytes", "Memory limit for the container.", gauge, nil,
		limit(func(r resources) int64 { return r.MemoryLimit })},
	{"container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", gauge, nil,
		limit(func(resources) int64 { return 0 })}, // CRI has no reservation
	{"container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", gauge, nil,
		limit(func(r resources) int64 { return r.MemorySwap })},

	// Times
	{"container_start_time_seconds", "Start time of the container since unix epoch in seconds.", gauge, nil,
		func(s subject) []sample {
			if s.container == nil {
				return always(uint64(s.pod.Sandbox.CreatedAt.Unix()))
			}
			return always(uint64(s.container.Container.StartedAt.Unix()))
		}},
	{"container_last_seen", "Last time a container was seen by the exporter", gauge, nil,
		func(s subject) []sample { return always(uint64(s.detail.Usage.At.Unix())) }},
}
