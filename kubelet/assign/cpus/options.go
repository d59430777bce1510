package cpus

import (
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

// Options of the static policy (cpuManagerPolicyOptions).
type Options struct {
	// FullCores gives whole cores only (full-pcpus-only).
	FullCores bool
	// AcrossNUMA spreads over NUMA nodes where one is not enough (distribute-cpus-across-numa).
	AcrossNUMA bool
	// BySocket counts as aligned what is on one socket (align-by-socket).
	BySocket bool
	// AcrossCores gives threads of different cores (distribute-cpus-across-cores).
	AcrossCores bool
	// Strict keeps containers that share off the reserved CPUs (strict-cpu-reservation).
	Strict bool
	// ByCache keeps what a container gets below as few last level caches as possible (prefer-align-cpus-by-uncorecache).
	ByCache bool
}

// ParseOptions reads them from the configuration.
func ParseOptions(given map[string]string) (Options, error) {
	var o Options
	known := map[string]*bool{"full-pcpus-only": &o.FullCores, "distribute-cpus-across-numa": &o.AcrossNUMA, "align-by-socket": &o.BySocket,
		"distribute-cpus-across-cores": &o.AcrossCores, "strict-cpu-reservation": &o.Strict, "prefer-align-cpus-by-uncorecache": &o.ByCache}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		field := known[name]
		if field == nil {
			return o, fmt.Errorf("unknown CPU Manager Policy option: %q", name)
		}
		value, err := strconv.ParseBool(given[name])
		if err != nil {
			return o, fmt.Errorf("bad value for option %q: %w", name, err)
		}
		*field = value
	}
	for _, pair := range []struct {
		both bool
		a, b string
	}{
		{o.FullCores && o.AcrossCores, "full-pcpus-only", "distribute-cpus-across-cores"},
		{o.AcrossNUMA && o.AcrossCores, "distribute-cpus-across-numa", "distribute-cpus-across-cores"},
		{o.ByCache && o.AcrossCores, "prefer-align-cpus-by-uncorecache", "distribute-cpus-across-cores"},
		{o.ByCache && o.AcrossNUMA, "prefer-align-cpus-by-uncorecache", "distribute-cpus-across-numa"},
	} {
		if pair.both {
			return o, fmt.Errorf("static policy options %s and %s can not be used at the same time", pair.a, pair.b)
		}
	}
	return o, nil
}

// Check tells whether the options suit the machine and the policy of the topology manager.
func (o Options) Check(t Topology, policy string) error {
	if !o.BySocket {
		return nil
	}
	if policy == numa.PolicySingle {
		return fmt.Errorf("option align-by-socket cannot be used with topologyManagerPolicy: %s", policy)
	}
	if t.count(bySocket) > t.count(byNode) {
		return fmt.Errorf("option align-by-socket cannot be used on a machine with more sockets (%d) than NUMA nodes (%d)", t.count(bySocket), t.count(byNode))
	}
	return nil
}

// SMTError is why a pod is refused that cannot have whole cores. Its text is upstream's.
type SMTError struct {
	Requested, PerCore int
	// Short is set when there are too few free cores, Available then is how many CPUs free cores have.
	Short     bool
	Available int
}

func (e *SMTError) Error() string {
	if e.Short {
		return fmt.Sprintf("SMT Alignment Error: not enough free physical CPUs: available physical CPUs = %d, requested CPUs = %d, CPUs per core = %d", e.Available, e.Requested, e.PerCore)
	}
	return fmt.Sprintf("SMT Alignment Error: requested %d cpus not multiple cpus per core = %d", e.Requested, e.PerCore)
}

// AdmissionReason is the reason that a refused pod shows.
func (e *SMTError) AdmissionReason() string { return "SMTAlignmentError" }
