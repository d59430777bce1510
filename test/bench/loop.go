package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/test/bench/usage"
)

// loop repeats one thing on skiff alone until Ctrl-C, for profilers: "pod" starts and stops pods, "exec" runs programs
// in one. It says once a second how long it takes.
func loop(b *bench, what string) error {
	if !slices.Contains([]string{"pod", "exec", "pod-seccomp", "exec-seccomp"}, what) {
		return fmt.Errorf("-loop %q: want pod, exec, pod-seccomp or exec-seccomp", what)
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
	into, said := timings{}, time.Now()
	for i := 0; b.ctx.Err() == nil; i++ {
		if strings.HasPrefix(what, "exec") {
			err = p.exec(b, into, o)
		} else {
			err = p.cycle(b, into, fmt.Sprintf("loop-%d", i), profile)
		}
		if err != nil {
			return err
		}
		if time.Since(said) < time.Second {
			continue
		}
		for name, samples := range into {
			b.say("%-46s p50 %7.2f ms, min %7.2f, of %d", name, stats(samples).P50, stats(samples).Min, len(samples))
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
