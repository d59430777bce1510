//go:build root

package keeper_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// cpu is the processor time, in ns, that the keeper and its containers have used so far.
func (n *node) cpu(b *testing.B) float64 {
	b.Helper()
	if !cgroup2(b) {
		text, err := os.ReadFile("/sys/fs/cgroup/cpuacct" + n.cgroup + "/cpuacct.usage")
		if err != nil {
			b.Fatal(err)
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
		if err != nil {
			b.Fatal(err)
		}
		return v
	}
	text, err := os.ReadFile("/sys/fs/cgroup" + n.cgroup + "/cpu.stat")
	if err != nil {
		b.Fatal(err)
	}
	v, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	return v * 1000
}

// meter sums processor time over the measured parts of a benchmark: on a busy machine it says more than the wall clock.
type meter struct {
	b     *testing.B
	n     *node
	since float64
	sum   float64
}

func (m *meter) start() { m.since = m.n.cpu(m.b); m.b.StartTimer() }
func (m *meter) stop()  { m.b.StopTimer(); m.sum += m.n.cpu(m.b) - m.since }
func (m *meter) report() {
	m.b.ReportMetric(m.sum/float64(m.b.N), "cpu-ns/op")
}

// BenchmarkStart is a trivial container from nothing to running; its end is not measured.
func BenchmarkStart(b *testing.B) {
	for _, kind := range []struct {
		name   string
		change func(*specs.Spec)
	}{
		{"plain", func(*specs.Spec) {}},
		{"cri", likeCRI},
		{"seccomp", func(s *specs.Spec) { likeCRI(s); s.Linux.Seccomp = seccomp.DefaultProfile(s) }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			n := start(b)
			spec := n.spec("x", "sleep", "600")
			kind.change(spec)
			m := meter{b: b, n: n}
			b.ResetTimer()
			for range b.N {
				m.start()
				n.create(n.request("x", spec))
				n.start("x")
				m.stop()
				n.kill("x", 9)
				n.wait("x")
				n.delete("x")
			}
			m.report()
		})
	}
}

// likeCRI adds the mounts and masks that the CRI server asks for.
func likeCRI(s *specs.Spec) {
	s.Mounts = append(s.Mounts,
		specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", "ro"}},
		specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: "/etc/hosts", Options: []string{"rbind", "rprivate", "rw"}},
		specs.Mount{Destination: "/etc/hostname", Type: "bind", Source: "/etc/hostname", Options: []string{"rbind", "rprivate", "rw"}},
		specs.Mount{Destination: "/etc/resolv.conf", Type: "bind", Source: "/etc/resolv.conf", Options: []string{"rbind", "rprivate", "rw"}},
		specs.Mount{Destination: "/dev/shm", Type: "bind", Source: "/dev/shm", Options: []string{"rbind", "rprivate", "rw", "nosuid", "noexec", "nodev"}},
	)
	s.Linux.MaskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	s.Linux.ReadonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
}

// BenchmarkStop is from the kill of a running container until nothing is left of it.
func BenchmarkStop(b *testing.B) {
	n := start(b)
	spec := n.spec("x", "sleep", "600")
	m := meter{b: b, n: n}
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		n.create(n.request("x", spec))
		n.start("x")
		m.start()
		n.kill("x", 9)
		n.wait("x")
		n.delete("x")
		m.stop()
	}
	m.report()
}

// BenchmarkExec is a trivial process in a container, from the request to its exit code.
func BenchmarkExec(b *testing.B) {
	for _, confined := range []bool{false, true} {
		b.Run(map[bool]string{false: "plain", true: "seccomp"}[confined], func(b *testing.B) {
			n := start(b)
			spec := n.spec("x", "sleep", "600")
			if confined {
				spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
			}
			n.create(n.request("x", spec))
			n.start("x")
			m := meter{b: b, n: n}
			b.ResetTimer()
			for range b.N {
				m.start()
				if _, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: keeper.Target{ID: "x", ExecID: "e"}, Process: process(b, "true"), Wait: true}); err != nil {
					b.Fatal(err)
				}
				m.stop()
			}
			m.report()
		})
	}
}
