//go:build root

package keeper_test

import (
	"testing"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// BenchmarkStart is a trivial container from nothing to running; its end is not measured.
func BenchmarkStart(b *testing.B) {
	n := start(b)
	spec := n.spec("x", "sleep", "600")
	for b.Loop() {
		n.create(n.request("x", spec))
		n.start("x")
		b.StopTimer()
		n.kill("x", 9)
		n.wait("x")
		n.delete("x")
		b.StartTimer()
	}
}

// BenchmarkStop is from the kill of a running container until nothing is left of it.
func BenchmarkStop(b *testing.B) {
	n := start(b)
	spec := n.spec("x", "sleep", "600")
	for b.Loop() {
		b.StopTimer()
		n.create(n.request("x", spec))
		n.start("x")
		b.StartTimer()
		n.kill("x", 9)
		n.wait("x")
		n.delete("x")
	}
}

// BenchmarkExec is a trivial process in a container, from the request to its exit code.
func BenchmarkExec(b *testing.B) {
	n := start(b)
	n.shell("x", "sleep 600")
	n.start("x")
	for b.Loop() {
		if _, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: keeper.Target{ID: "x", ExecID: "e"}, Process: process(b, "true"), Wait: true}); err != nil {
			b.Fatal(err)
		}
	}
}
