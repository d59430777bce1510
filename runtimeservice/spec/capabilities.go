package spec

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities are those of every container, as containerd, CRI-O and Docker agree on them.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// setCapabilities follows KEP-2763 for the ambient ones: they are in every set. Nothing exceeds what the host has
// to give: libcontainer would fail on it.
func setCapabilities(s *specs.Spec, in Input) error {
	asked := in.Config.Security.Capabilities
	set := slices.Clone(defaultCapabilities)
	if in.Config.Security.Privileged {
		set = slices.Clone(in.Host.Capabilities)
	}
	add, err := capabilityNames("add_capabilities", asked.Add, in.Host)
	if err != nil {
		return err
	}
	drop, err := capabilityNames("drop_capabilities", asked.Drop, in.Host)
	if err != nil {
		return err
	}
	ambient, err := capabilityNames("add_ambient_capabilities", asked.AddAmbient, in.Host)
	if err != nil {
		return err
	}
	// "ALL" acts first, so that {add: ALL, drop: X} and {drop: ALL, add: X} mean what they say.
	if slices.ContainsFunc(asked.Add, isAll) {
		set, add = slices.Clone(in.Host.Capabilities), nil
	}
	if slices.ContainsFunc(asked.Drop, isAll) {
		set, drop = nil, nil
	}
	set = append(set, add...)
	set = append(set, ambient...)
	set = slices.DeleteFunc(set, func(c string) bool {
		return (slices.Contains(drop, c) && !slices.Contains(ambient, c)) || !slices.Contains(in.Host.Capabilities, c)
	})
	slices.Sort(set)
	set = slices.Compact(set)
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
	ambient = slices.DeleteFunc(ambient, func(c string) bool { return !slices.Contains(set, c) })
	if len(ambient) > 0 {
		s.Process.Capabilities.Inheritable = set
		s.Process.Capabilities.Ambient = ambient
	}
	return nil
}

func isAll(name string) bool { return strings.EqualFold(name, "ALL") }

func capabilityNames(field string, names []string, h Host) ([]string, error) {
	var out []string
	for _, name := range names {
		if isAll(name) {
			continue
		}
		full := strings.ToUpper(name)
		if !strings.HasPrefix(full, "CAP_") {
			full = "CAP_" + full
		}
		if !slices.Contains(CapabilityNames, full) {
			return nil, invalid("%s: unknown capability %q", field, name)
		}
		out = append(out, full)
	}
	return out, nil
}

// CapabilityNames is every capability by its number (linux/capability.h).
var CapabilityNames = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}
