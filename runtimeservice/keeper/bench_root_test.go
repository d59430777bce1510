//go:build root

package keeper_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

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
	n := start(b)
	spec := n.spec("x", "sleep", "600")
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
	n := start(b)
	n.shell("x", "sleep 600")
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
}
