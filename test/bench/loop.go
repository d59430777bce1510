package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/test/bench/report"
	"github.com/skiff-node/skiff/test/bench/usage"
)

// loops are what can be repeated.
var loops = []string{"pod", "exec", "pod-seccomp", "exec-seccomp", "static", "burst"}

// loop repeats one thing on skiff alone until Ctrl-C, for profilers: "pod" starts and stops pods, "exec" runs programs
// in one, both at the CRI server; "static" is a static pod of a kubelet and "burst" many pods at once. It says once a second
// how long it takes.
func loop(b *bench, what string) error {
	switch {
	case !slices.Contains(loops, what):
		return fmt.Errorf("-loop %q: want %s", what, strings.Join(loops, ", "))
	case what == "static" || what == "burst":
		return kubeletLoop(b, what)
	}
	profile := unconfined
	if strings.HasSuffix(what, "-seccomp") {
		profile = confined
	}
	archive, err := writeImages(b)
	if err != nil {
		return err
	}
	p, err := startSkiff(b, archive)
	if err != nil {
		return err
	}
	o, err := p.up(b, timings{}, "loop", profile)
	if err != nil {
		return err
	}
	return repeat(b, func(into timings, i int) error {
		if strings.HasPrefix(what, "exec") {
			return p.exec(b, into, o)
		}
		return p.cycle(b, into, fmt.Sprintf("loop-%d", i), profile)
	})
}

// kubeletLoop is loop for what a kubelet does.
func kubeletLoop(b *bench, what string) error {
	archive, err := writeImages(b)
	if err != nil {
		return err
	}
	a := &agent{name: "skiff", host: newHost(b)}
	if err := a.start(b, archive, filepath.Join(a.host.BinDir, "skiff"), "kubelet"); err != nil {
		return err
	}
	b.say("the host's files and logs are in %s", a.host.Dir)
	return repeat(b, func(into timings, i int) error {
		if what == "static" {
			return a.static(b.ctx, into, i)
		}
		return a.burst(b.ctx, into, named("burst", crowd))
	})
}

// repeat does something until Ctrl-C.
func repeat(b *bench, do func(into timings, i int) error) error {
	into, said := timings{}, time.Now()
	for i := 0; b.ctx.Err() == nil; i++ {
		if err := do(into, i); err != nil {
			return err
		}
		if time.Since(said) < time.Second {
			continue
		}
		for name, samples := range into {
			b.say("%-46s p50 %7.2f ms, min %7.2f, of %d", name, report.Stats(samples).P50, report.Stats(samples).Min, len(samples))
		}
		into, said = timings{}, time.Now()
	}
	return b.ctx.Err()
}

// cycle starts and stops one pod, and notes the processor time of both.
func (p *peer) cycle(b *bench, into timings, name string, profile runtimeapi.SecurityProfile_ProfileType) error {
	before := usage.CPU(p.host)
	o, err := p.up(b, into, name, profile)
	if err != nil {
		return err
	}
	between := usage.CPU(p.host)
	if err := p.down(b, into, o); err != nil {
		return err
	}
	into[cpuStart] = append(into[cpuStart], between-before)
	into[cpuStop] = append(into[cpuStop], usage.CPU(p.host)-between)
	return nil
}
