package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

// setNamespaces joins the sandbox's namespaces. A namespace that is not listed is the keeper's, which is the host's.
func setNamespaces(s *specs.Spec, in Input) error {
	own := in.Config.Security.Namespaces
	list := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	join := func(kind specs.LinuxNamespaceType, path string) {
		if path != "" {
			list = append(list, specs.LinuxNamespace{Type: kind, Path: path})
		}
	}
	join(specs.UserNamespace, in.Joins.User)
	join(specs.NetworkNamespace, in.Joins.Network)
	join(specs.IPCNamespace, in.Joins.IPC)
	join(specs.UTSNamespace, in.Joins.UTS)
	switch own.PID {
	case runtimeservice.NamespaceNode:
	case runtimeservice.NamespacePod, runtimeservice.NamespaceTarget:
		if in.Joins.PID == "" {
			return invalid("PID namespace mode %q: there is nothing to join", own.PID)
		}
		join(specs.PIDNamespace, in.Joins.PID)
	default:
		list = append(list, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if in.Host.CgroupV2 && !in.Config.Security.Privileged {
		list = append(list, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	s.Linux.Namespaces = list
	return nil
}
