// Command bench measures skiff and, where it is installed, Debian's containerd, side by side in one run on one machine:
//
//	bench -bin DIR [-o table|markdown|json] [-runs N] [-only pods,pull,node,kubelet]
//
// Both CRI servers run in simulated hosts of their own (see test/harness) with the same image, the same requests and the
// same client. Runs alternate between them, so that what else the machine does falls on both alike. The node is measured
// in a third host: from nothing to a running pod, and idle. Kubelets are measured last, skiff's and the upstream one that is
// on the PATH, each under a control plane and on a CRI server of skiff's. Figures go to standard output, progress to standard error.
// The machine is left as it was, also after Ctrl-C.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"

	"github.com/skiff-node/skiff/test/bench/report"
)

// parts are what can be chosen to be measured.
var parts = []string{"pods", "pull", "node", "kubelet"}

type options struct {
	bin    string
	output string
	runs   int
	only   string
	loop   string
}

func main() {
	// The main thread stays here: harness looks at its namespaces to tell this process from those of its hosts.
	runtime.LockOSThread()
	var o options
	flag.StringVar(&o.bin, "bin", "bin", "directory of the built binaries")
	flag.StringVar(&o.output, "o", "table", "table, markdown or json")
	flag.IntVar(&o.runs, "runs", 20, "pods that are started one after the other")
	flag.StringVar(&o.only, "only", strings.Join(parts, ","), "what to measure")
	flag.StringVar(&o.loop, "loop", "", "instead, repeat on skiff alone until Ctrl-C, for profilers: "+strings.Join(loops, ", "))
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	if os.Geteuid() != 0 {
		return errors.New("making namespaces and containers needs root: run it with sudo")
	}
	if !slices.Contains([]string{"table", "markdown", "json"}, o.output) {
		return fmt.Errorf("-o %q: want table, markdown or json", o.output)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	os.Setenv("SKIFF_BIN", o.bin) // where harness looks
	r := &report.Report{Machine: report.Here()}
	b := newBench(ctx, r)
	err := b.guard(func() error { return measure(b, o) })
	r.Machine.LoadEnd = report.Load()
	b.broken = err != nil && ctx.Err() == nil // then the ends of the daemons' logs are shown
	left := b.close()
	if ctx.Err() != nil && left == nil {
		return errors.New("interrupted; nothing is left behind")
	}
	if err = errors.Join(err, left); err != nil {
		return err
	}
	return r.Print(os.Stdout, o.output)
}

// measure runs each chosen part, in an order that leaves no other host busy.
func measure(b *bench, o options) error {
	if o.loop != "" {
		return loop(b, o.loop)
	}
	chosen := strings.Split(o.only, ",")
	for _, c := range chosen {
		if !slices.Contains(parts, c) {
			return fmt.Errorf("-only %q: there are %s", c, strings.Join(parts, ", "))
		}
	}
	if slices.Contains(chosen, "node") {
		if err := nodes(b); err != nil {
			return fmt.Errorf("node: %w", err)
		}
	}
	if slices.Contains(chosen, "pods") || slices.Contains(chosen, "pull") {
		peers, err := startPeers(b)
		if err != nil {
			return err
		}
		if slices.Contains(chosen, "pods") {
			if err := pods(b, peers, o.runs); err != nil {
				return fmt.Errorf("pods: %w", err)
			}
		}
		if slices.Contains(chosen, "pull") {
			if err := pulls(b, peers); err != nil {
				return fmt.Errorf("pull: %w", err)
			}
		}
	}
	if slices.Contains(chosen, "kubelet") {
		if err := kubelets(b); err != nil {
			return fmt.Errorf("kubelet: %w", err)
		}
	}
	sizes(b, o.bin)
	return nil
}
