package oci

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// rlimits are the resource limits by their OCI names.
var rlimits = map[string]int{
	"RLIMIT_AS":         unix.RLIMIT_AS,
	"RLIMIT_CORE":       unix.RLIMIT_CORE,
	"RLIMIT_CPU":        unix.RLIMIT_CPU,
	"RLIMIT_DATA":       unix.RLIMIT_DATA,
	"RLIMIT_FSIZE":      unix.RLIMIT_FSIZE,
	"RLIMIT_LOCKS":      unix.RLIMIT_LOCKS,
	"RLIMIT_MEMLOCK":    unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE":   unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE":       unix.RLIMIT_NICE,
	"RLIMIT_NOFILE":     unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC":      unix.RLIMIT_NPROC,
	"RLIMIT_RSS":        unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO":     unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME":     unix.RLIMIT_RTTIME,
	"RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING,
	"RLIMIT_STACK":      unix.RLIMIT_STACK,
}

// defaultNofile is the number of open files a container may have where its specification is silent. It must be set,
// as the Go runtime has raised this process's own soft limit.
const defaultNofile = 1 << 20

// limits is what this process may give to others, probed once.
type limits struct {
	privileged bool // CAP_SYS_RESOURCE: nothing is clamped
	oomScore   int  // our own oom_score_adj, the lowest we may give
	hard       map[string]uint64
}

func probeLimits() (limits, error) {
	l := limits{hard: map[string]uint64{}}
	text, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return l, fmt.Errorf("read own oom_score_adj: %w", err)
	}
	if l.oomScore, err = strconv.Atoi(string(bytes.TrimSpace(text))); err != nil {
		return l, fmt.Errorf("read own oom_score_adj: %w", err)
	}
	for name, kind := range rlimits {
		var r unix.Rlimit
		if err := unix.Getrlimit(kind, &r); err != nil {
			return l, fmt.Errorf("read own %s: %w", name, err)
		}
		l.hard[name] = r.Max
	}
	if l.privileged, err = hasCapability(unix.CAP_SYS_RESOURCE); err != nil {
		return l, err
	}
	return l, nil
}

func hasCapability(bit uint) (bool, error) {
	text, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		return false, fmt.Errorf("read own capabilities: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if set, ok := strings.CutPrefix(line, "CapEff:"); ok {
			v, err := strconv.ParseUint(strings.TrimSpace(set), 16, 64)
			return v&(1<<bit) != 0, err
		}
	}
	return false, errors.New("read own capabilities: no CapEff in /proc/thread-self/status")
}

// apply clamps what the specification asks for to what we may give.
func (l limits) apply(spec *specs.Spec) error {
	if spec.Process == nil {
		return errors.New("process is missing")
	}
	if spec.Linux == nil {
		spec.Linux = &specs.Linux{}
	}
	spec.Process.OOMScoreAdj = l.oom(spec.Process.OOMScoreAdj)
	l.applyRlimits(spec.Process)
	return nil
}

// oom never lets a container inherit a protected keeper's own, low value.
func (l limits) oom(want *int) *int {
	v := 0
	if want != nil {
		v = *want
	}
	if !l.privileged {
		v = max(v, l.oomScore)
	}
	return &v
}

func (l limits) applyRlimits(p *specs.Process) {
	explicit := false
	out := make([]specs.POSIXRlimit, 0, len(p.Rlimits)+1)
	for _, r := range p.Rlimits {
		explicit = explicit || r.Type == "RLIMIT_NOFILE"
		out = append(out, l.clamp(r))
	}
	if !explicit {
		most := min(defaultNofile, l.hard["RLIMIT_NOFILE"])
		out = append(out, specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: most, Hard: most})
	}
	p.Rlimits = out
}

func (l limits) clamp(r specs.POSIXRlimit) specs.POSIXRlimit {
	most, known := l.hard[r.Type]
	if l.privileged || !known {
		return r
	}
	r.Hard = min(r.Hard, most)
	r.Soft = min(r.Soft, r.Hard)
	return r
}
