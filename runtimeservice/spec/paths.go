package spec

import "github.com/opencontainers/runtime-spec/specs-go"

// The kubelet sends these lists itself; they serve clients that send none.
var (
	defaultMasked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	defaultReadonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// setPaths hides parts of /proc and /sys. An empty list on the wire may mean "none" (procMount: Unmasked) or "not
// said"; the first is only allowed with a user namespace, so without one the defaults apply.
func setPaths(s *specs.Spec, in Input) error {
	security := in.Config.Security
	if security.Privileged {
		return nil
	}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = security.MaskedPaths, security.ReadonlyPaths
	if in.Joins.User != "" || len(security.MaskedPaths)+len(security.ReadonlyPaths) > 0 {
		return nil
	}
	s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = defaultMasked, defaultReadonly
	return nil
}
