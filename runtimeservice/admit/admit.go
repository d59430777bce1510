// Package admit refuses requests that cannot be carried out, before anything is made. Its rules are pure; each refusal
// wraps runtimeservice.ErrInvalid and names the field. What can be told from one message alone is refused earlier, in
// cri/convert.
package admit

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/namespace"
)

func invalid(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", runtimeservice.ErrInvalid, field, fmt.Sprintf(format, args...))
}

// Sandbox checks what a sandbox is asked to be.
func Sandbox(c runtimeservice.SandboxConfig) error {
	m := c.Metadata
	if m.Name == "" || m.Namespace == "" || m.UID == "" {
		return invalid("config.metadata", "name, namespace and uid are required")
	}
	if c.LogDirectory != "" && !filepath.IsAbs(c.LogDirectory) {
		return invalid("config.log_directory", "%q is not an absolute path", c.LogDirectory)
	}
	ns := c.Security.Namespaces
	if ns.PID == runtimeservice.NamespaceTarget {
		return invalid("config.linux.security_context.namespace_options.pid", "a sandbox has no target")
	}
	if ns.UserPod { // its root may not show the pod what belongs to the host
		for field, mode := range map[string]runtimeservice.NamespaceMode{"pid": ns.PID, "ipc": ns.IPC} {
			if mode == runtimeservice.NamespaceNode {
				return invalid("namespace_options."+field, "NODE is not possible with a user namespace of the pod's own")
			}
		}
	}
	return sysctls(c)
}

// sysctls must lie in a namespace of the pod's own.
func sysctls(c runtimeservice.SandboxConfig) error {
	own := map[string]runtimeservice.NamespaceMode{"net": c.Security.Namespaces.Network, "ipc": c.Security.Namespaces.IPC}
	for name := range c.Sysctls {
		scope := namespace.Scope(name)
		if scope == "" || own[scope] == runtimeservice.NamespaceNode {
			return invalid("config.linux.sysctls", "%q is not in a namespace of the pod's own", name)
		}
	}
	return nil
}

// Container checks what a container is asked to be in its sandbox.
func Container(box runtimeservice.SandboxConfig, c runtimeservice.ContainerConfig) error {
	pod, own := box.Security.Namespaces, c.Security.Namespaces
	if own.UserPod && !(pod.UserPod && slices.Equal(pod.UIDs, own.UIDs) && slices.Equal(pod.GIDs, own.GIDs)) {
		return invalid("namespace_options.userns_options", "they are not the sandbox's")
	}
	if pod.UserPod && own.PID == runtimeservice.NamespaceNode {
		return invalid("namespace_options.pid", "NODE is not possible in a pod with a user namespace of its own")
	}
	if c.Security.Privileged && !box.Security.Privileged {
		return invalid("security_context.privileged", "the sandbox is not privileged")
	}
	if c.LogPath != "" && !filepath.IsLocal(c.LogPath) {
		return invalid("config.log_path", "%q leaves the sandbox's log directory", c.LogPath)
	}
	if c.Resources.MemorySwap > 0 && c.Resources.MemoryLimit <= 0 {
		return invalid("resources.memory_swap_limit_in_bytes", "needs memory_limit_in_bytes")
	}
	return Resources(c.Resources)
}

// Resources checks limits, also those of an update, where what is 0 stays as it is.
func Resources(r runtimeservice.Resources) error {
	switch {
	case r.CPUPeriod < 0:
		return invalid("resources.cpu_period", "%d is negative", r.CPUPeriod)
	case r.CPUQuota < -1:
		return invalid("resources.cpu_quota", "%d is neither a time nor -1, no limit", r.CPUQuota)
	case r.CPUShares < 0:
		return invalid("resources.cpu_shares", "%d is negative", r.CPUShares)
	case r.MemoryLimit < -1:
		return invalid("resources.memory_limit_in_bytes", "%d is neither a size nor -1, no limit", r.MemoryLimit)
	case r.MemorySwap < -1:
		return invalid("resources.memory_swap_limit_in_bytes", "%d is neither a size nor -1, no limit", r.MemorySwap)
	case r.MemorySwap > 0 && r.MemorySwap < r.MemoryLimit:
		return invalid("resources.memory_swap_limit_in_bytes", "it counts memory and swap together, so %d is below the memory limit, %d", r.MemorySwap, r.MemoryLimit)
	case r.OOMScoreAdj < -1000 || r.OOMScoreAdj > 1000:
		return invalid("resources.oom_score_adj", "%d is not between -1000 and 1000", r.OOMScoreAdj)
	case !isList(r.CPUSetCPUs):
		return invalid("resources.cpuset_cpus", "%q is no list of numbers and ranges", r.CPUSetCPUs)
	case !isList(r.CPUSetMems):
		return invalid("resources.cpuset_mems", "%q is no list of numbers and ranges", r.CPUSetMems)
	}
	for file := range r.Unified {
		if file == "" || strings.ContainsAny(file, "/\x00") || strings.HasPrefix(file, "cgroup.") {
			return invalid("resources.unified", "%q is no file of a cgroup controller", file)
		}
	}
	return nil
}

// isList recognises "0-3,7" (cpuset(7), list format).
func isList(text string) bool {
	return strings.Trim(text, "0123456789-, \n") == ""
}
