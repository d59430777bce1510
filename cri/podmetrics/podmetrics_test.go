package podmetrics

import (
	"slices"
	"strings"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice"
)

func is(v uint64) runtimeservice.Metric { return runtimeservice.Metric{Value: v, Known: true} }

// everything is a measure in which nothing is unknown.
func everything() runtimeservice.Detail {
	psi := &runtimeservice.PSI{Some: runtimeservice.PSILine{Total: 7_900_000}, Full: runtimeservice.PSILine{Total: 2_100_000}}
	return runtimeservice.Detail{
		Usage: runtimeservice.Usage{
			At:  time.Unix(1000, 5),
			CPU: runtimeservice.CPUUsage{CoreNanoseconds: is(3_999_999_999), PSI: psi},
			Memory: runtimeservice.MemoryUsage{
				WorkingSet: is(90), Usage: is(100), RSS: is(40), PSI: psi,
			},
			IOPSI: psi,
		},
		CPU: runtimeservice.CPUDetail{User: is(2e9), System: is(1e9), Periods: is(10), ThrottledPeriods: is(4), ThrottledTime: is(5e9)},
		Memory: runtimeservice.MemoryDetail{
			Cache: is(1), Swap: is(2), Kernel: is(3), MappedFile: is(4), ActiveFile: is(5), InactiveFile: is(6), Peak: is(7),
			LimitHits: is(8), OOMKills: is(9), Faults: is(10), MajorFaults: is(11), AllFaults: is(12), AllMajorFaults: is(13),
		},
		Disks:     []runtimeservice.DiskUsage{{Device: "/dev/vda", Major: 254, ReadBytes: 1, WrittenBytes: 2, Reads: 3, Writes: 4}},
		Hugepages: []runtimeservice.HugepageUsage{{PageSize: "2MB", Usage: is(1), Peak: is(2)}},
		Processes: runtimeservice.ProcessDetail{
			Processes: is(1), Threads: is(2), ThreadsMax: is(3), Descriptors: is(4), Sockets: is(5), OpenFilesMax: is(1024),
		},
	}
}

func pod() runtimeservice.SandboxDetail {
	d := runtimeservice.SandboxDetail{
		Sandbox: runtimeservice.Sandbox{ID: "s1", CreatedAt: time.Unix(500, 0), Config: runtimeservice.SandboxConfig{
			Metadata: runtimeservice.SandboxMetadata{Name: "web", Namespace: "shop", UID: "u"},
		}},
		Cgroup: "/kubepods/podu", Detail: everything(),
		Interfaces: []runtimeservice.InterfaceUsage{{
			Name: "eth0", RxBytes: 1, RxPackets: 2, RxDropped: 3, RxErrors: 4, TxBytes: 5, TxPackets: 6, TxDropped: 7, TxErrors: 8,
		}},
	}
	c := runtimeservice.ContainerDetail{
		Container: runtimeservice.Container{ID: "c1", StartedAt: time.Unix(600, 0), Config: runtimeservice.ContainerConfig{
			Metadata:  runtimeservice.ContainerMetadata{Name: "app"},
			Image:     runtimeservice.Image{Ref: "sha256:1", UserSpecified: "nginx:1"},
			Resources: runtimeservice.Resources{CPUQuota: 20000, CPUShares: 1024, MemoryLimit: 64, MemorySwap: 128},
		}},
		Cgroup: "/kubepods/podu/c1", Detail: everything(),
		Layer: runtimeservice.LayerUsage{Bytes: 10}, Space: runtimeservice.DiskSpace{Device: "/dev/vda", Bytes: 20, Inodes: 30, FreeInodes: 25},
	}
	d.Containers = []runtimeservice.ContainerDetail{c}
	return d
}

// line shows a metric as Prometheus does.
func line(m *cri.Metric) string {
	var keys []string
	for _, d := range Descriptors() {
		if d.Name == m.Name {
			keys = d.LabelKeys
		}
	}
	var pairs []string
	for i, v := range m.LabelValues {
		if v != "" {
			pairs = append(pairs, keys[i]+"="+v)
		}
	}
	return m.Name + "{" + strings.Join(pairs, ",") + "}"
}

func find(t *testing.T, list []*cri.Metric, want string) uint64 {
	t.Helper()
	for _, m := range list {
		if line(m) == want {
			return m.Value.Value
		}
	}
	t.Errorf("no %s", want)
	return 0
}

func TestDescriptors(t *testing.T) {
	seen := map[string]bool{}
	for _, d := range Descriptors() {
		if seen[d.Name] {
			t.Errorf("%s is there twice", d.Name)
		}
		seen[d.Name] = true
		if d.Help == "" || !slices.Equal(d.LabelKeys[:6], []string{"container", "id", "image", "name", "namespace", "pod"}) {
			t.Errorf("%v", d)
		}
	}
	if len(seen) != 58 {
		t.Errorf("%d metrics", len(seen))
	}
}

// TestEveryRow: what is known of a container shows in every metric but the network's, with as many labels as announced.
func TestEveryRow(t *testing.T) {
	got := Pod(pod())
	found := map[string]int{}
	for _, m := range slices.Concat(got.Metrics, got.ContainerMetrics[0].Metrics) {
		found[m.Name] = len(m.LabelValues)
		if m.Timestamp != 0 {
			t.Errorf("%s: a live value has no timestamp, this one %d", m.Name, m.Timestamp)
		}
	}
	for _, d := range Descriptors() {
		if found[d.Name] != len(d.LabelKeys) {
			t.Errorf("%s: %d labels announced, %d found", d.Name, len(d.LabelKeys), found[d.Name])
		}
	}
}

func TestValues(t *testing.T) {
	got := Pod(pod())
	const c = "container=app,id=/kubepods/podu/c1,image=nginx:1,name=c1,namespace=shop,pod=web"
	for want, value := range map[string]uint64{
		"container_cpu_usage_seconds_total{" + c + ",cpu=total}":                                          3,
		"container_cpu_cfs_throttled_seconds_total{" + c + "}":                                            5,
		"container_memory_failures_total{" + c + ",failure_type=pgmajfault,scope=hierarchy}":              13,
		"container_pressure_cpu_stalled_seconds_total{" + c + "}":                                         2,
		"container_pressure_io_waiting_seconds_total{" + c + "}":                                          7,
		"container_blkio_device_usage_total{" + c + ",device=/dev/vda,major=254,minor=0,operation=Write}": 2,
		"container_fs_reads_total{" + c + ",device=/dev/vda}":                                             3,
		"container_fs_inodes_free{" + c + ",device=/dev/vda}":                                             25,
		"container_hugetlb_max_usage_bytes{" + c + ",pagesize=2MB}":                                       2,
		"container_ulimits_soft{" + c + ",ulimit=max_open_files}":                                         1024,
		"container_spec_cpu_period{" + c + "}":                                                            100000,
		"container_spec_memory_swap_limit_bytes{" + c + "}":                                               128,
		"container_start_time_seconds{" + c + "}":                                                         600,
		"container_last_seen{" + c + "}":                                                                  1000,
	} {
		if v := find(t, got.ContainerMetrics[0].Metrics, want); v != value {
			t.Errorf("%s %d, want %d", want, v, value)
		}
	}
	const p = "id=/kubepods/podu,name=s1,namespace=shop,pod=web"
	for want, value := range map[string]uint64{
		"container_network_receive_packets_dropped_total{" + p + ",interface=eth0}": 3,
		"container_network_transmit_errors_total{" + p + ",interface=eth0}":         8,
		"container_memory_working_set_bytes{" + p + "}":                             90,
		"container_start_time_seconds{" + p + "}":                                   500,
	} {
		if v := find(t, got.Metrics, want); v != value {
			t.Errorf("%s %d, want %d", want, v, value)
		}
	}
}

// TestUnknown: what the kernel does not tell is left out, and nothing else of containers appears among a pod's metrics.
func TestUnknown(t *testing.T) {
	d := pod()
	d.Detail, d.Containers = runtimeservice.Detail{}, nil
	for _, m := range Pod(d).Metrics {
		if !strings.HasPrefix(m.Name, "container_network_") && m.Name != "container_last_seen" && m.Name != "container_start_time_seconds" && m.Name != "container_threads_max" {
			t.Errorf("%s %d", line(m), m.Value.Value)
		}
	}
}
