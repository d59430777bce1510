package spec

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

// setLabels sets the AppArmor profile and the SELinux label. A kernel without AppArmor or SELinux runs containers
// without them, but a profile that was asked for by name must not be dropped in silence.
func setLabels(s *specs.Spec, in Input) error {
	security := in.Config.Security
	if p := security.AppArmor; p != nil && p.Type == runtimeservice.ProfileLocalhost {
		if !in.Host.AppArmor {
			return invalid("security_context.apparmor: the kernel has no AppArmor, profile %q cannot be enforced", p.Ref)
		}
		s.Process.ApparmorProfile = p.Ref
	}
	if l := security.SELinux; l != nil && in.Host.SELinux && !security.Privileged {
		s.Process.SelinuxLabel = strings.Join([]string{l.User, l.Role, l.Type, l.Level}, ":")
	}
	return nil
}
